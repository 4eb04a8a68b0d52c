"""The embedded chest CT volumes with their lung masks."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from input_pipeline import prepared, samples
from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.samples import chest_volumes
from input_pipeline.samples.reproducible_files import write_mhd
from tests.input_pipeline.conftest import data_config, read_split

CHEST = Path(samples.__file__).parent / "chest_volumes"
VOLUMES = {"TS-CTA-0001": ("subset0", 96), "PR-LUNG1-0001": ("subset9", 80)}  # subset, slices
# Lungs at the scan's own resolution, from which chest_ct's masks are made.
LUNGS_ML = {"TS-CTA-0001": 4015, "PR-LUNG1-0001": 2857}


def read(name):
    """HU and lungs, [slices, rows, columns], as SimpleITK reads them, and its image of the CT."""
    image = sitk.ReadImage(str(CHEST / VOLUMES[name][0] / f"{name}.mhd"))
    mask = sitk.ReadImage(str(CHEST / "seg-lungs-LUNA16" / f"{name}.mhd"))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, what)() == getattr(mask, what)()
    return sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(mask), image


def test_layout_is_that_of_luna16():
    files = {path.relative_to(CHEST).as_posix() for path in CHEST.rglob("*") if path.is_file()}
    assert files == {
        "patients.csv",
        "subset0/TS-CTA-0001.mhd",
        "subset0/TS-CTA-0001.raw",
        "subset9/PR-LUNG1-0001.mhd",
        "subset9/PR-LUNG1-0001.zraw",
        *(f"seg-lungs-LUNA16/{name}.{ending}" for name in VOLUMES for ending in ("mhd", "zraw")),
    }
    assert (
        sum((CHEST / "subset0" / f"TS-CTA-0001.{e}").stat().st_size for e in ("mhd", "raw")) < 2e6
    )
    assert sum((CHEST / name).stat().st_size for name in files) < 2_600_000


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_chests_in_hu(name):
    hu, mask, image = read(name)
    assert hu.dtype == np.int16 and hu.shape == (VOLUMES[name][1], 96, 96) == mask.shape
    assert image.GetSpacing() == (3, 3, 3) and image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert (hu.min(), hu.max()) == (-1000, 1000) and not (hu % 8).any()
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    assert mask.sum() * 27 / 1000 == pytest.approx(LUNGS_ML[name], rel=0.01)
    assert hu[mask == 1].mean() < -600 and hu[mask == 0].mean() > -550
    # The lungs are whole in the plane. The second scan ends inside them.
    assert not any(edge.any() for edge in (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]))
    spine = np.argwhere(hu > 300)[:, 1].mean() if name == "PR-LUNG1-0001" else 96
    assert spine > np.argwhere(mask)[:, 1].mean()  # behind the lungs


def test_the_sample_is_prepared_by_its_name(tmp_path):
    options = luna16.Config(stored_size=24, depth=24, lung_masks=True).options
    data = data_config(
        tmp_path, dataset="luna16", sample="chest_volumes", source="image", target="mask", **options
    )
    prepared.ensure_prepared(data)
    patients = {s: {e.patient for e in prepared.examples(data, s)} for s in prepared.SPLITS}
    assert patients == {
        "train": {"TS-CTA-0001"},
        "validation": {"TS-CTA-0001"},
        "test": {"PR-LUNG1-0001"},
    }
    for split, name in (("train", "TS-CTA-0001"), ("test", "PR-LUNG1-0001")):
        records = read_split(prepared.ensure_prepared(data), split)
        hu, mask, _ = read(name)
        assert len(records) == 24
        share = np.mean([record["mask"].mean() for record in records])
        assert share == pytest.approx(mask.mean(), rel=0.15)
        assert np.mean([r["image"].mean() for r in records]) == pytest.approx(hu.mean(), abs=40)


def test_a_slice_of_the_grid_is_the_mean_of_its_voxels():
    """The scan is a ramp on voxels of 3/4 mm, so the mean is known."""
    z, y, x = np.meshgrid(np.arange(16), np.arange(400), np.arange(400), indexing="ij")
    image = sitk.GetImageFromArray((z * 10.0 + y - 2.0 * x).astype(np.float32))
    image.SetSpacing((0.75, 0.75, 0.75))
    image.SetOrigin((5, 6, 7))
    first_mm, slices = chest_volumes.corner_mm(image, (5 + 199.5 * 0.75, 6 + 199.5 * 0.75))
    assert slices == 4 and first_mm[2] == pytest.approx(7 + 1.5 * 0.75)
    made = chest_volumes.resample_slice(image, first_mm)
    rows, columns = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
    at = [(first_mm[axis] - origin) / 0.75 for axis, origin in enumerate((5, 6, 7))]
    expected = 10 * at[2] + (at[1] + 4 * rows) - 2 * (at[0] + 4 * columns)
    np.testing.assert_allclose(made, expected, atol=1e-3)


@pytest.mark.parametrize("compressed", [False, True])
def test_written_headers_are_read_by_simpleitk(tmp_path, compressed):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    write_mhd(tmp_path / "ct.mhd", voxels, (1, 2, 3), (-4.5, 5.25, 6), compressed)
    image = sitk.ReadImage(str(tmp_path / "ct.mhd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels, strict=True)
    assert image.GetSpacing() == (1, 2, 3) and image.GetOrigin() == (-4.5, 5.25, 6)
