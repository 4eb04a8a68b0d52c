"""Resampling, against SimpleITK in the patient's space and against a closed form."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.imaging import resample
from jax_pix2pix.imaging.volume import Volume
from jax_pix2pix.imaging.volume_file import read_geometry, read_labels, read_mr

AXES = [("LPS", "LPS"), ("RAS", "LPS"), ("PIR", "RAS"), ("SAL", "PIR")]


def scan(shape, spacing, origin, degrees=0.0, axes="LPS", dtype=np.float32):
    """A sitk.Image of noise, turned about an oblique axis."""
    values = np.random.default_rng(0).integers(1, 200, shape[::-1]).astype(dtype)
    picture = sitk.GetImageFromArray(values)
    turn = sitk.VersorTransform((1.0, 2.0, 2.0), np.radians(degrees))
    picture.SetDirection(turn.GetMatrix())
    picture.SetSpacing(spacing)
    picture.SetOrigin(origin)
    return sitk.DICOMOrient(picture, axes)


def written(path, picture):
    sitk.WriteImage(picture, str(path))
    return path


def as_pictures(path, values):
    """[slices, rows, columns] of values on the axes of a sitk.Image's file."""
    voxels = sitk.GetArrayFromImage(values).T
    return read_geometry(path).to_pictures(voxels)


@pytest.mark.parametrize(("mine", "its"), AXES)
@pytest.mark.parametrize("kind", ["linear", "nearest"])
def test_it_is_what_simpleitk_makes(tmp_path, mine, its, kind):
    dtype = np.float32 if kind == "linear" else np.uint8
    moving = scan((20, 24, 14), (1.5, 1.2, 2.0), (-10, -14, -12), 9.0, mine, dtype)
    fixed = scan((15, 18, 11), (1.9, 1.7, 2.3), (-8, -11, -10), -3.0, its)
    source = written(tmp_path / "source.nii.gz", moving)
    target = written(tmp_path / "target.nii.gz", fixed)
    grid = read_geometry(target)
    if kind == "linear":
        found = resample.linear(read_mr(source), grid, beyond=-5)
        default, how, most = -5, sitk.sitkLinear, 1e-2  # NIfTI holds directions in float32
    else:
        found = resample.nearest(read_labels(source), grid)
        default, how, most = 0, sitk.sitkNearestNeighbor, 0
    expected = sitk.Resample(
        sitk.ReadImage(str(source)), sitk.ReadImage(str(target)), sitk.Transform(), how, default
    )
    expected = as_pictures(target, expected)
    assert found.values.dtype == dtype and found.values.shape == grid.shape
    assert found.geometry is grid
    apart = np.abs(found.values.astype(float) - expected) > most
    assert apart.mean() < 2e-3  # at the edge, by rounding
    assert (expected == default).mean() > 0.02 and expected.std() > 20


def test_a_linear_function_of_place_comes_through_any_affine(tmp_path):
    """The mathematics of it, for axes that are not perpendicular too."""
    slope, offset = np.array([1.7, -2.3, 0.9]), 40.0

    def save(name, affine, shape):
        places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
        nib.save(nib.Nifti1Image((places @ slope + offset).astype(np.float32), affine), name)
        return name

    sheared = np.array([[1.5, 0.4, 0, -16], [0, 1.6, 0.3, -17], [0.1, 0, 2.1, -19], [0, 0, 0, 1]])
    turned = np.array([[0, -1.1, 0.2, 5], [1.3, 0, 0, -6], [0, 0.2, 1.7, -5], [0, 0, 0, 1]])
    source = read_mr(save(tmp_path / "source.nii", sheared, (22, 22, 19)))
    target = read_mr(save(tmp_path / "target.nii", turned, (9, 9, 6)))
    found = resample.linear(source, target.geometry, beyond=1e6)
    np.testing.assert_allclose(found.values, target.values, atol=1e-3)


def test_integers_are_rounded(tmp_path):
    """Half a voxel apart: means of neighbours, of int16 as of a cone beam CT."""
    values = np.array([0, -3, 9, -1024], np.int16).reshape(4, 1, 1)
    save = {"affine": np.diag([-1.0, -1, 1, 1])}
    nib.save(nib.Nifti1Image(values, **save), tmp_path / "source.nii")
    moved = save["affine"].copy()
    moved[0, 3] = -0.6
    nib.save(nib.Nifti1Image(values, moved), tmp_path / "target.nii")
    volume = read_mr(tmp_path / "source.nii")
    volume = Volume(volume.values.astype(np.int16), volume.geometry)
    found = resample.linear(volume, read_geometry(tmp_path / "target.nii"), beyond=-7)
    assert found.values.dtype == np.int16
    # 0.4 of a voxel and 0.6 of the next; beyond the last one's border, -7.
    assert found.values.ravel().tolist() == [-2, 4, -611, -7]
