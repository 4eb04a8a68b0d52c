"""Chest CT slices of two patients with class masks, in the layout of the lung nodule data set.

128x128 pixels on one geometry for both patients.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from input_pipeline.samples.lungs import lung_box_centre, segment_lungs
from input_pipeline.samples.reproducible_files import write_png

SIZE = 128  # pixels along each side of a slice
SPACING_MM = 2.5  # of a slice, so the field of view is 320 mm square
SUPERSAMPLING = 4  # samples per pixel and axis, whose mean is the pixel
WINDOW_HU = (-1000.0, 400.0)
AIR_HU = -1000.0  # where a slice reaches beyond the scan
MIN_LUNG_MM2 = 1000.0  # slices with less lung than this are left out

CLASS_NODULE = 2  # 0 is outside, 1 lung


class Patient(NamedTuple):
    """One patient's volumes, by their names in `sources`."""

    name: str
    split: str
    image: str
    nodule: str | None  # on the voxels of the image


PATIENTS = (
    Patient("TS-CTA-0001", "train", "chest_angiography", None),
    Patient("PR-LUNG1-0001", "test", "chest", "chest_nodule"),
)


def resample_slice(image: sitk.Image, centre_mm, is_mask: bool = False) -> np.ndarray:
    """One 2-D slice on the common grid: nearest neighbour for masks, area mean for HU.

    The mean over a pixel's area is the anti-aliasing: the source has up to 4x finer pixels.
    """
    factor = 1 if is_mask else SUPERSAMPLING
    interpolator = sitk.sitkNearestNeighbor if is_mask else sitk.sitkLinear
    count, step_mm = SIZE * factor, SPACING_MM / factor
    origin_mm = [c - (count - 1) / 2 * step_mm for c in centre_mm]
    fine = sitk.Resample(
        *(image, (count, count), sitk.Transform(), interpolator, origin_mm, (step_mm, step_mm)),
        *(image.GetDirection(), 0 if is_mask else AIR_HU, sitk.sitkFloat64),
    )
    return sitk.GetArrayFromImage(fine).reshape(SIZE, factor, SIZE, factor).mean(axis=(1, 3))


def window_to_uint8(hu: np.ndarray) -> np.ndarray:
    """Maps `WINDOW_HU` to 0..255; everything darker or brighter is clipped."""
    low, high = WINDOW_HU
    return np.rint((np.clip(hu, low, high) - low) * (255 / (high - low))).astype(np.uint8)


def make_patient(patient: Patient, files: dict[str, Path], folder: Path) -> None:
    """Writes every slice of one patient that shows enough lung, with its mask, under `folder`."""
    # Both volumes are LPS with identity directions: rows run to the back and columns to the
    # patient's left, which is the radiological display, so nothing is flipped.
    ct_hu = sitk.ReadImage(str(files[patient.image]))
    nodule = sitk.ReadImage(str(files[patient.nodule])) > 0 if patient.nodule else None
    lungs = segment_lungs(ct_hu)
    centre_mm = lung_box_centre(lungs)

    for k in tqdm(range(ct_hu.GetDepth()), desc=patient.name, unit="slice"):
        mask = (resample_slice(lungs[:, :, k], centre_mm, is_mask=True) > 0).astype(np.uint8)
        if mask.sum() * SPACING_MM**2 < MIN_LUNG_MM2:
            continue
        if nodule is not None:  # takes precedence: tumour is too bright for the lung threshold
            mask[resample_slice(nodule[:, :, k], centre_mm, is_mask=True) > 0] = CLASS_NODULE
        kind, word = ("with_nodules", "combined") if CLASS_NODULE in mask else ("clean", "lung")
        target = folder / patient.split / kind
        target.mkdir(parents=True, exist_ok=True)
        pixels = window_to_uint8(resample_slice(ct_hu[:, :, k], centre_mm))
        write_png(target / f"{patient.name}_slice_{k:04d}.png", pixels)
        with (target / f"{patient.name}_{word}_mask_{k:04d}.npy").open("wb") as file:
            np.lib.format.write_array(file, mask, version=(1, 0), allow_pickle=False)


def make(files: dict[str, Path], folder: Path) -> None:
    """Writes train/ and test/, one patient each."""
    for patient in PATIENTS:
        make_patient(patient, files, folder)
