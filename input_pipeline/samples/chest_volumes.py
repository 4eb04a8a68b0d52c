"""Two chest CT volumes with lung masks, in the layout of LUNA16.

Both have voxels of 3 mm and HU in steps of 8. Scans and files are LPS with identity directions, so
nothing is turned.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from input_pipeline.samples.lungs import lung_box_centre, segment_lungs
from input_pipeline.samples.reproducible_files import write_mhd

SIZE = 96  # voxels along rows and columns
SPACING_MM = 3.0  # of a voxel, so the field of view is 288 mm square
SUPERSAMPLING = 4  # samples per voxel and axis, whose mean is the voxel
RANGE_HU = (-1000.0, 1000.0)
STEP_HU = 8  # 251 levels, which would fit into 8 bits
AIR_HU = -1000.0  # where the field of view reaches beyond the scan
MASKS = "seg-lungs-LUNA16"


class Series(NamedTuple):
    """One scan, by its name in `sources`."""

    name: str
    subset: str  # LUNA16 has ten for cross-validation
    image: str
    compressed: bool  # voxels in .zraw, not .raw; the sample has one of each


SERIES = (
    Series("TS-CTA-0001", "subset0", "chest_angiography", compressed=False),
    Series("PR-LUNG1-0001", "subset9", "chest", compressed=True),
)


def corner_mm(image: sitk.Image, centre_mm) -> tuple[list[float], int]:
    """(first voxel's centre (x, y, z) of the 3 mm grid, number of slices that span the scan).

    Args:
        centre_mm: (x, y) of the middle of the grid.
    """
    count, spacing_mm = image.GetDepth(), image.GetSpacing()[2]
    slices = int(np.ceil(count * spacing_mm / SPACING_MM))
    middle = (*centre_mm, image.GetOrigin()[2] + (count - 1) / 2 * spacing_mm)
    shape = (SIZE, SIZE, slices)
    return [c - (n - 1) / 2 * SPACING_MM for c, n in zip(middle, shape, strict=True)], slices


def resample_slice(image: sitk.Image, first_mm, is_mask: bool = False) -> np.ndarray:
    """One slice of the grid, [SIZE, SIZE]: nearest neighbour for masks, volume mean for HU."""
    factor = 1 if is_mask else SUPERSAMPLING
    step_mm = SPACING_MM / factor
    fine = sitk.Resample(
        *(image, (SIZE * factor, SIZE * factor, factor), sitk.Transform()),
        sitk.sitkNearestNeighbor if is_mask else sitk.sitkLinear,
        [c - (factor - 1) / 2 * step_mm for c in first_mm],
        [step_mm] * 3,
        *(image.GetDirection(), 0 if is_mask else AIR_HU, sitk.sitkFloat64),
    )
    samples = sitk.GetArrayFromImage(fine).reshape(factor, SIZE, factor, SIZE, factor)
    return samples.mean(axis=(0, 2, 4))


def to_steps(hu: np.ndarray) -> np.ndarray:
    """Clips to `RANGE_HU` and rounds to steps. int16."""
    return (np.rint(np.clip(hu, *RANGE_HU) / STEP_HU) * STEP_HU).astype(np.int16)


def make_series(series: Series, files: dict[str, Path], folder: Path) -> None:
    """Writes the volume and the lung mask of one scan under `folder`."""
    ct_hu = sitk.ReadImage(str(files[series.image]))
    lungs = segment_lungs(ct_hu)
    (x, y, z), slices = corner_mm(ct_hu, lung_box_centre(lungs))
    places = [(x, y, z + k * SPACING_MM) for k in range(slices)]
    # The outermost voxels reach half a millimetre beyond the scan: repeat its end slices.
    ct_hu = sitk.ZeroFluxNeumannPad(ct_hu, [0, 0, 1], [0, 0, 1])
    hu = [resample_slice(ct_hu, place) for place in tqdm(places, desc=series.name, unit="slice")]
    mask = [resample_slice(lungs, place, is_mask=True) > 0 for place in places]
    for kind, values, compressed in (
        (series.subset, to_steps(np.stack(hu)), series.compressed),
        (MASKS, np.stack(mask).astype(np.uint8), True),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        path = folder / kind / f"{series.name}.mhd"
        write_mhd(path, values, [SPACING_MM] * 3, (x, y, z), compressed)


def make(files: dict[str, Path], folder: Path) -> None:
    """Writes subset0/ and subset9/ with a volume each, the masks' folder and patients.csv."""
    for series in SERIES:
        make_series(series, files, folder)
    rows = "".join(f"{series.name},{series.name}\n" for series in SERIES)
    (folder / "patients.csv").write_text(f"seriesuid,patient\n{rows}", newline="\n")
