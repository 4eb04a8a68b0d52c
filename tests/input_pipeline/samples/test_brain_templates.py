"""The embedded MR and CT templates of the brain, and how they are registered."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from input_pipeline import samples

PATIENT = Path(samples.__file__).parent / "brain_templates" / "Task1" / "brain" / "template"


def read(name):
    """The array [x, y, z] and the NIfTI image of a file of the sample."""
    image = nib.load(PATIENT / f"{name}.nii.gz")
    return np.asarray(image.dataobj), image


@pytest.fixture
def script():
    """The module that makes the sample. It needs SimpleITK; reading the sample does not."""
    pytest.importorskip("SimpleITK")
    from input_pipeline.samples import brain_templates

    return brain_templates


def test_layout_is_that_of_synthrad():
    names = {path.name for path in PATIENT.iterdir()}
    assert names == {"mr.nii.gz", "ct.nii.gz", "mask.nii.gz"}
    assert sum(path.stat().st_size for path in PATIENT.iterdir()) <= 1_000_000
    for name, dtype in {"mr": np.uint8, "ct": np.int16, "mask": np.uint8}.items():
        values, image = read(name)
        assert values.dtype == dtype and values.shape == (128, 128, 77)
        np.testing.assert_array_equal(image.affine, read("mr")[1].affine)
        assert image.header.get_zooms() == (2, 2, 2)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert nib.orientations.aff2axcodes(image.affine) == ("R", "A", "S")


def test_both_are_brain_in_the_mask_and_nothing_outside():
    mr, ct, mask = (read(name)[0] for name in ("mr", "ct", "mask"))
    assert set(np.unique(mask)) == {0, 1} and mask.any(axis=(0, 1)).all()
    assert (mr[mask == 1] > 30).all() and not mr[mask == 0].any()
    assert (ct[mask == 0] == -1000).all()
    assert 0 <= ct[mask == 1].min() and ct[mask == 1].max() < 200
    assert 30 < ct[mask == 1].mean() < 45
    assert mask.sum() * 8 / 1000 == pytest.approx(1861, abs=1)


def test_brain_lies_in_mni_space():
    mask, image = read("mask")
    centre_mm = nib.affines.apply_affine(image.affine, np.argwhere(mask)).mean(axis=0)
    np.testing.assert_allclose(centre_mm, (0, -20, 9), atol=4)
    assert np.abs(mask - mask[::-1].astype(int)).mean() < 0.01  # the template is symmetric
    extents = [np.flatnonzero(mask.any(axis=axes))[[0, -1]].sum() for axes in ((1, 2), (0, 2))]
    assert all(abs(sum_of_ends - 127) <= 1 for sum_of_ends in extents)


def test_ventricles_are_dark_in_both():
    """Ties the CT to the MR: fluid is dark in both, unless the CT is shifted or flipped."""
    mr, ct, mask = (read(name)[0] for name in ("mr", "ct", "mask"))
    inner = np.zeros(mask.shape, bool)
    inner[52:76, 45:85, 36:50] = mask[52:76, 45:85, 36:50] == 1
    fluid = inner & (mr < 110)
    assert fluid.sum() > 500
    assert ct[fluid].mean() < ct[inner & (mr > 160)].mean() - 8
    for axis in (1, 2):
        shifted = np.roll(ct, 8, axis=axis)
        assert shifted[fluid].mean() > ct[fluid].mean() + 3


def blob(sitk, centre_mm, scale):
    """A float64 image of 40^3 voxels of 2 mm: an ellipsoid with a bright and a dark part."""
    origin = np.array([-40.0, -40.0, -40.0]) + centre_mm
    z, y, x = ((np.indices((40, 40, 40)).T * 2 - 40) / np.multiply(scale, (1.0, 0.8, 0.6))[::-1]).T
    values = np.where(x**2 + y**2 + z**2 < 30**2, 100.0, 0.0)
    values[(x - 10) ** 2 + y**2 + z**2 < 8**2] = 180
    values[(x + 8) ** 2 + (y - 10) ** 2 + z**2 < 9**2] = 40
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetOrigin(origin.tolist())
    return image


def test_registration_finds_a_shift_and_scales(script):
    sitk = pytest.importorskip("SimpleITK")
    fixed = blob(sitk, (0.0, 0.0, 0.0), 1.0)
    moving = blob(sitk, (7.0, -300.0, 1000.0), (1.15, 0.9, 1.1))
    masks = script.brain(fixed), script.brain(moving)
    transform = script.register(fixed, moving, *masks)
    for point in ((0, 0, 0), (12, 6, -4), (-10, 8, 10)):
        expected = np.multiply(point, (1.15, 0.9, 1.1)) + np.array((7, -300, 1000))
        np.testing.assert_allclose(transform.TransformPoint(point), expected, atol=1.0)


def test_brain_is_the_largest_part_with_its_holes(script):
    sitk = pytest.importorskip("SimpleITK")
    values = np.zeros((9, 9, 9))
    values[1:6, 1:6, 1:6] = -3
    values[3, 3, 3] = 0  # fluid of 0 HU
    values[8, 8, 8] = 1
    image = sitk.GetImageFromArray(values)
    image.SetOrigin((1.0, 2.0, 3.0))
    mask = script.brain(image)
    expected = np.zeros((9, 9, 9))
    expected[1:6, 1:6, 1:6] = 1
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)
    assert mask.GetOrigin() == (1, 2, 3)


def test_crop_centres_the_brain_and_keeps_every_voxel_in_its_place(script, monkeypatch):
    monkeypatch.setattr(script, "EDGE", 6)
    mask = np.zeros((9, 10, 20), bool)
    mask[2:7, 0:5, 9:12] = True
    values = np.random.default_rng(0).uniform(size=mask.shape)
    assert script.corner(mask) == [2, -4, 4]  # rows 0 to 4 and columns 9 to 11, of 12
    cropped = script.crop(values, mask)
    assert cropped.shape == (4, 12, 12)  # the fifth slice makes no whole block
    np.testing.assert_array_equal(cropped[:, 4:, :], values[2:6, :8, 4:16])
    assert not cropped[:, :4].any()


def test_means_are_of_the_voxels_in_the_mask(script):
    values = np.arange(64.0).reshape(4, 4, 4)
    mask = np.ones((4, 4, 4), bool)
    np.testing.assert_allclose(
        script.means(values, mask)[1, 0, 1],
        values[2:, :2, 2:].mean(),
    )
    mask[0, 0, 0] = mask[2:, 2:, 2:] = False
    assert script.means(values, mask)[0, 0, 0] == pytest.approx(values[:2, :2, :2].sum() / 7)
    assert script.means(values, mask)[1, 1, 1] == 0


def test_dice_of_masks(script):
    one, other = np.array([1, 1, 0, 0], bool), np.array([1, 1, 1, 0], bool)
    assert script.dice(one, other) == pytest.approx(4 / 5)
