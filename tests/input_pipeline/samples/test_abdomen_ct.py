"""The embedded abdominal CT with its liver."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from input_pipeline import samples
from input_pipeline.preparation.patients import split_by_patient
from input_pipeline.samples import abdomen_ct

ABDOMEN = Path(samples.__file__).parent / "abdomen_ct"
LIVER_ML = 1125.684  # 41,692 voxels of 27 mm3 in the package's labels, all of them in the crop


def read(name):
    """The array [x, y, z] and the NIfTI image of a file of the sample."""
    image = nib.load(ABDOMEN / f"{name}-0.nii.gz")
    return np.asarray(image.dataobj), image


def test_layout_is_that_of_lits():
    names = {path.name for path in ABDOMEN.iterdir()}
    assert names == {"volume-0.nii.gz", "segmentation-0.nii.gz"}
    assert sum(path.stat().st_size for path in ABDOMEN.iterdir()) <= 1_500_000
    (hu, ct), (labels, segmentation) = read("volume"), read("segmentation")
    assert hu.dtype == np.int16 and labels.dtype == np.uint8
    assert hu.shape == labels.shape == (122, 101, 51)
    np.testing.assert_array_equal(ct.affine, segmentation.affine)
    assert ct.header.get_zooms() == (3, 3, 3) and ct.header.get_xyzt_units()[0] == "mm"
    assert set(np.unique(labels)) == {0, 1}


def test_liver_is_where_and_what_it_should_be():
    (hu, ct), (labels, _) = read("volume"), read("segmentation")
    assert labels.sum() * abs(np.linalg.det(ct.affine)) / 1000 == pytest.approx(LIVER_ML)
    assert 30 < hu[labels == 1].mean() < 150 and hu[labels == 1].std() < 25
    assert not labels[:, :, :8].any() and labels[:, :, 8:].any(axis=(0, 1)).all()

    def centre_mm(mask):  # right, front, head
        return nib.affines.apply_affine(ct.affine, np.argwhere(mask)).mean(axis=0)

    body, liver = centre_mm(hu > -200), centre_mm(labels == 1)
    assert liver[0] > body[0] + 30 and liver[2] > body[2] + 20
    assert centre_mm(hu > 300)[1] < body[1] - 20  # spine and ribs


def test_simpleitk_reads_the_same():
    sitk = pytest.importorskip("SimpleITK")
    for name in ("volume", "segmentation"):
        array, image = read(name)
        other = sitk.ReadImage(str(ABDOMEN / f"{name}-0.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, array)
        assert other.GetSpacing() == (3, 3, 3)
        corner = other.TransformIndexToPhysicalPoint((121, 100, 50))
        mirrored = image.affine @ (121, 100, 50, 1) * (-1, -1, 1, 1)  # RAS to LPS
        np.testing.assert_allclose(corner, mirrored[:3], atol=1e-3)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2])
def test_every_held_out_slice_shows_liver(fraction):
    labels, _ = read("segmentation")
    slices = [SimpleNamespace(patient="0", slice_index=k) for k in range(labels.shape[2])]
    rest = split_by_patient(slices, fraction, "")
    held_out = rest.validation + split_by_patient(rest.train, 0.1, "").validation
    assert all(labels[:, :, example.slice_index].any() for example in held_out)


def test_crop_keeps_every_voxel_in_its_place(tmp_path):
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 1000, (5, 6, 20)).astype(np.int32)
    organs = np.zeros((5, 6, 20), np.uint8)
    organs[1:3, 2, 12:] = 5
    organs[0, 0, 3] = 4  # another organ
    affine = np.array([[-3.0, 0.2, 0, 7], [0.1, 2.5, 0, 8], [0, 0, 1.5, 9], [0, 0, 0, 1]])
    files = {"abdomen": tmp_path / "a.nii.gz", "abdomen_organs": tmp_path / "b.nii.gz"}
    for path, array in zip(files.values(), (hu, organs), strict=True):
        nib.save(nib.Nifti1Image(array, affine), path)
    abdomen_ct.make(files, tmp_path / "made")
    volume, segmentation = (
        nib.load(tmp_path / "made" / f"{name}-0.nii.gz") for name in ("volume", "segmentation")
    )
    np.testing.assert_array_equal(volume.dataobj, hu[:, :, 4:])
    np.testing.assert_array_equal(segmentation.dataobj, organs[:, :, 4:] == 5)
    np.testing.assert_allclose(volume.affine @ (1, 2, 3, 1), affine @ (1, 2, 7, 1), rtol=1e-6)
