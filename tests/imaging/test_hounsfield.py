"""What counts as HU: the embedded CTs as they are, cut, masked and padded, but not rescaled."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.hounsfield import AIR_HU, as_hu, check_hu, rounded
from jax_pix2pix.logs import messages

SAMPLES = Path(__file__).parents[2] / "input_pipeline/samples"
FILES = {
    "abdomen": "abdomen_ct/volume-0.nii.gz",
    "head": "brain_templates/Task1/brain/template/ct.nii.gz",  # skull-stripped
    "thorax": "chest_volumes/subset0/TS-CTA-0001.mhd",
    "lungs": "chest_volumes/subset9/PR-LUNG1-0001.mhd",
}


@pytest.fixture(scope="module")
def cts():
    return {
        name: volume_file.read_mr(SAMPLES / path).values[:, ::2, ::2]
        for name, path in FILES.items()
    }


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    """The kinds of which a warning was given."""
    kinds = set()
    monkeypatch.setattr(messages, "_warned", kinds)
    return kinds


def corners(hu):
    """bool: outside of the circle of a scanner's field of view."""
    rows, columns = (np.linspace(-1, 1, size) for size in hu.shape[1:])
    return np.broadcast_to(rows[:, None] ** 2 + columns**2 > 1, hu.shape)


def noise(hu, deviation):
    return np.random.default_rng(0).normal(0, deviation, hu.shape)


TRUE = {  # what a hospital's CT may be
    "whole": lambda hu: hu,
    "air as zero": lambda hu: np.where(hu < -900, 0, hu),
    "padded": lambda hu: np.where(corners(hu), -3024, hu),
    "with metal": lambda hu: np.where(hu > 400, hu * 20, hu),
    "windowed": lambda hu: hu.clip(-200, 300),
    "the body alone": lambda hu: np.where(hu > -300, hu, -1000),
    "of a low dose": lambda hu: hu + noise(hu, 60),
    "cone beam": lambda hu: 0.8 * hu - 60 + noise(hu, 90),
}
PARTS = (slice(None), slice(5, 6), slice(30, 31), slice(20, 30))


@pytest.mark.parametrize("change", TRUE)
def test_true_hu_pass(cts, change):
    for hu in cts.values():
        for part in PARTS:
            cut = TRUE[change](hu[part])
            if np.ptp(cut):
                check_hu(cut, "ct")
    # Crops: of muscle, of lung, of skin.
    for at in np.ndindex(3, 3, 3):
        crop = cts["thorax"][tuple(slice(12 * k, 12 * k + 12) for k in at)]
        check_hu(TRUE[change](crop), "ct")


FALSE = {
    "HU + 1024": lambda hu: hu + 1024,
    "HU + 1024:": lambda hu: np.where(corners(hu), -2000, hu + 1024),  # as scanners store it
    "HU + 1024: subtract 1024": lambda hu: np.where(hu <= -900, -1000, hu + 1024),
    "[0, 1]": lambda hu: (hu + 1000) / 2000,
    "[0, 1]:": lambda hu: np.where(hu <= -1000, -1000, (hu.clip(-1000, 1000) + 1000) / 2000),
    "[-1, 1]": lambda hu: hu.clip(-1000, 1000) / 1000,
    "0..255": lambda hu: ((hu + 160) / 400 * 255).clip(0, 255),
    "a deviation of 1": lambda hu: 2 * (hu - hu.mean()) / hu.std(),
    "a single value": lambda hu: np.zeros_like(hu),
}


@pytest.mark.parametrize("guess", FALSE)
def test_other_scales_are_named(cts, guess):
    for name, hu in cts.items():
        for part in (slice(None), slice(30, 31)):
            with pytest.raises(DataError) as caught:
                check_hu(FALSE[guess](hu[part].astype(np.float64)), f"{name}.nii")
            text = str(caught.value)
            assert text.startswith(f"{name}.nii holds values of") and "\n" not in text
            assert f"{guess}" in text, text
    assert "air is -1000, water 0" in text


def test_hu_that_were_shifted_twice_are_refused_where_there_is_air_around_the_body(cts):
    for name in ("abdomen", "thorax", "lungs"):
        with pytest.raises(DataError, match="HU - 1024"):
            check_hu(cts[name] - 1024, name)


def test_an_mr_is_no_ct(cts):
    mr = SAMPLES / "brain_templates/Task1/brain/template/mr.nii.gz"
    with pytest.raises(DataError, match=r"0\.\.255"):
        volume_file.read_ct(mr)
    with pytest.raises(DataError, match="as in an MR"):
        check_hu(volume_file.read_mr(mr).values * 40, "mr")


def test_what_cannot_be_decided_passes_with_one_warning(warned, capsys):
    brain = np.zeros((8, 16, 16), np.int16)
    brain[2:6, 4:12, 4:12] = np.random.default_rng(0).integers(-9, 73, (4, 8, 8))
    for background in (0, -1000, AIR_HU):
        hu = np.where(brain, brain, background).astype(np.int16)
        as_hu(hu, f"brain{background}.nii")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: brain0.nii shows no air or lung that would confirm its HU")
    assert "values of -9 to 72" in line
    as_hu(np.random.default_rng(0).integers(-1000, -600, (4, 9, 9)), "lung.nii")
    assert warned == {"a CT without air or lung", "a CT without soft tissue"}


def test_padding_is_air(tmp_path):
    """-3024, and -2000 and 63536 which are the same 16 bits; nothing else changes."""
    hu = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    expected = hu.copy()
    expected[0, :3] = AIR_HU
    for padding, dtype in ((-3024, np.int16), (-2000, np.float32), (63536, np.uint16)):
        # The last stores HU + 1024, so that its header has the intercept.
        stored = hu + (1024 if dtype == np.uint16 else 0)
        stored = stored.astype(dtype)
        stored[0, :3] = padding
        image = nib.Nifti1Image(stored, np.diag([-1, -1, 1, 1]))
        image.header.set_slope_inter(1, -1024 if dtype == np.uint16 else 0)
        nib.save(image, tmp_path / "ct.nii")
        read = volume_file.read_ct(tmp_path / "ct.nii")
        np.testing.assert_array_equal(read.values.T, expected, strict=True)
    with pytest.raises(DataError, match="save it as int16"):
        rounded("ct", np.array([0.0, 40000]))
