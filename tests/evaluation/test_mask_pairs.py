"""Pairs of masks: which files are paired, and which are refused."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation.mask_pairs import IMAGES, VOLUMES, MaskPair, find_pairs, read_pair
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.formats.dicom import read_labels
from tests.imaging.test_dicom import write_series
from tests.masks import AFFINE, save

IMAGE, VOLUME = np.zeros((4, 5), np.uint8), np.zeros((4, 5, 6), np.uint8)
TWO_IMAGES = {"predictions/1.png": IMAGE, "references/1.png": IMAGE}
TWO_VOLUMES = {"predictions/1.nii": VOLUME, "references/1.nii": VOLUME}
THICKER = nib.Nifti1Image(VOLUME, AFFINE @ np.diag([1, 1, 1.1, 1]))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def test_names(folders):
    predictions, references = folders
    for name in ("prediction-10.nii.gz", "volume-9.NII", "liver.2.nii", "x-volume-1.nii"):
        save(predictions / name, b"")
    for name in ("segmentation-10.nii", "9.nii.gz", "Segmentation-liver.2.nii", "x-volume-1.nii"):
        save(references / name, b"")
    for name in (".hidden.nii", "list.csv"):
        save(references / name, b"")
    save(predictions / "prediction-10_uncertainty.nii.gz", b"")
    (references / "folder.nii").mkdir()
    kind, pairs, accounts = find_pairs(*folders)
    assert kind == VOLUMES
    assert accounts[0].line() == (
        f"files of {predictions}: 4 used, 1 passed over (1 an uncertainty: "
        "prediction-10_uncertainty.nii.gz)"
    )
    assert accounts[1].rows()[0] == [".hidden.nii", "passed over", "hidden"]
    assert accounts[1].why("list.csv") == "a text or a table"
    assert pairs == [
        MaskPair("9", f"{predictions}/volume-9.NII", f"{references}/9.nii.gz"),
        MaskPair("10", f"{predictions}/prediction-10.nii.gz", f"{references}/segmentation-10.nii"),
        MaskPair("liver.2", f"{predictions}/liver.2.nii", f"{references}/Segmentation-liver.2.nii"),
        MaskPair("x-volume-1", f"{predictions}/x-volume-1.nii", f"{references}/x-volume-1.nii"),
    ]


def test_any_format_at_any_depth(folders, tmp_path):
    """As `predict` writes them: each pair by its relative path, whatever case and ending."""
    predictions, references = folders
    volume = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    for name in ("a.mha", "Deep/prediction-2.nrrd", "series.nii.gz"):
        save(predictions / "one.nii", volume)
        image = volume_file.read_labels(predictions / "one.nii")
        (predictions / name).parent.mkdir(exist_ok=True)
        volume_file.write_mask(predictions / name, image.values, image)
    (predictions / "one.nii").unlink()
    (references / "deep").mkdir(parents=True)
    for name in ("A.nii", "deep/segmentation-2.mhd"):
        volume_file.write_mask(references / name, image.values, image)
    write_series(references / "series", image.values.astype(np.int16))
    kind, pairs, accounts = find_pairs(*folders)
    assert [pair.case for pair in pairs] == ["A", "deep/2", "series"]
    for pair in pairs[:2]:
        prediction, reference, _ = read_pair(kind, pair)
        np.testing.assert_array_equal(prediction, reference)
    np.testing.assert_array_equal(read_labels(references / "series").values, image.values)
    assert accounts[1].why("deep/segmentation-2.raw") == "voxels that another file names"


def test_pictures_of_any_lossless_format(folders):
    predictions, references = folders
    for name in ("1.tif", "2.gif"):
        save(predictions / name.replace("tif", "png"), IMAGE + 255)
        save(references / name, IMAGE + 255)
    kind, pairs, _ = find_pairs(*folders)
    assert kind == IMAGES
    assert all((np.stack(read_pair(kind, pair)[:2]) == 255).all() for pair in pairs)
    Image.fromarray(IMAGE).save(references / "1.tif", format="jpeg")
    with pytest.raises(DataError, match=r"1.tif is a JPEG by its content, and this takes PNG"):
        read_pair(kind, pairs[0])


def test_values_and_spacing(folders):
    """Volumes come as slices, rows and columns."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 4, 5), np.uint8)
    volumes = rng.integers(0, 3, (2, 4, 5, 6), np.uint8)
    for folder, image, volume in zip(folders, images, volumes, strict=True):
        save(folder / "png" / "1.png", image)
        save(folder / "nii" / "1.nii.gz", volume)
    kind, (pair,), _ = find_pairs(*(folder / "png" for folder in folders))
    assert kind == IMAGES
    prediction, reference, spacing_mm = read_pair(kind, pair)
    np.testing.assert_array_equal([prediction, reference], images)
    assert spacing_mm is None
    kind, (pair,), _ = find_pairs(*(folder / "nii" for folder in folders))
    prediction, reference, spacing_mm = read_pair(kind, pair)
    for values, volume in ((prediction, volumes[0]), (reference, volumes[1])):
        # AFFINE's columns run to the right, its rows to the back and its slices upwards.
        np.testing.assert_array_equal(values, volume.transpose(2, 1, 0)[:, :, ::-1])
    assert spacing_mm == pytest.approx((2.5, 0.7, 0.8))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"predictions cannot be read \(No such file"),
        ({"predictions": b""}, r"predictions cannot be read \(Not a directory"),
        ({"predictions/.1.png": b"", "references/1.png": IMAGE}, "predictions holds no masks"),
        (TWO_IMAGES | {"predictions/2.png": IMAGE}, "predictions/2.png has no partner in .*refer"),
        (TWO_IMAGES | {"references/2.png": IMAGE}, "references/2.png has no partner in .*predic"),
        (TWO_VOLUMES | {"predictions/volume-1.nii.gz": VOLUME}, "are both case 1: remove one"),
        (TWO_VOLUMES | {"references/2.png": IMAGE}, "compare one kind at a time"),
        (TWO_VOLUMES | {"predictions/1.nii": b"text"}, "predictions/1.nii cannot be read"),
        (TWO_IMAGES | {"references/1.png": b"text"}, "references/1.png cannot be read"),
        (TWO_IMAGES | {"predictions/1.png": IMAGE[:, 1:]}, "has 4 x 4 pixels and .* has 5 x 4"),
        (TWO_VOLUMES | {"predictions/1.nii": VOLUME[1:]}, "predictions/1.nii is not on the voxels"),
        (TWO_VOLUMES | {"predictions/1.nii": THICKER}, "predictions/1.nii .* its spacing is"),
    ],
)
def test_refusals(folders, files, message):
    for name, content in files.items():
        save(folders[0].parent / name, content)
    with pytest.raises(DataError, match=message):
        kind, pairs, _ = find_pairs(*folders)
        read_pair(kind, pairs[0])
