"""A published CT of full size, from the scanner's files to stored slices and back."""

import subprocess
import sys
import tarfile

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from input_pipeline.prepare import prepared_directory
from input_pipeline.samples.sources import ARCHIVES, sha256_of
from jax_pix2pix.imaging.formats.dicom import read_series
from jax_pix2pix.imaging.volume_file import read_ct, read_labels, write_mask
from tests.commands import run
from tests.input_pipeline.conftest import read_split

pytestmark = [pytest.mark.slow, pytest.mark.long]

(PACKAGE,) = (source for source in ARCHIVES if source.package.startswith("totalsegmentator"))
UNREACHABLE = ("No matching distribution", "ConnectionError", "Timeout")  # in pip's messages
FILES = "tests/reference_files"
LIVER = 5  # among the package's labels
OPTIONS = {"stored_size": 160, "test_fraction": 0.15, "validation_fraction": 0.1}
CONFIG = """
from configs.base import get_base

def get_config():
    config = get_base()
    config.data.dataset = "liver_ct"
    config.data.stored_size = 160
    config.data.test_fraction = 0.15
    config.data.validation_fraction = 0.1
    config.data.split_by = "volume"
    return config
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Folder of totalsegmentator's own test files: 20 slices, in JPEG 2000."""
    folder = tmp_path_factory.mktemp("package")
    name, version = PACKAGE.package.rsplit("-", 1)
    pip = [sys.executable, "-m", "pip", "download", "--dest", folder, "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-binary", name, f"{name}=={version}"], capture_output=True, text=True
    )
    if any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"pip cannot reach {PACKAGE.package}")
    assert not done.returncode, done.stderr
    archive = folder / f"{PACKAGE.package}.tar.gz"
    assert sha256_of(archive) == PACKAGE.sha256
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / PACKAGE.package / FILES


@pytest.fixture(scope="module")
def lits(package, tmp_path_factory):
    """The series and its liver as volume 0 of LiTS, written by SimpleITK."""
    folder = tmp_path_factory.mktemp("lits")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(package / "example_ct_dicom")))
    ct = reader.Execute()
    # The labels' file orders its rows from back to front.
    labels = np.asarray(nib.load(package / "example_seg_dicom.nii.gz").dataobj)
    labels = sitk.GetImageFromArray((labels == LIVER).transpose(2, 1, 0)[:, ::-1].astype(np.uint8))
    labels.CopyInformation(ct)
    sitk.WriteImage(ct, str(folder / "volume-0.nii"))
    sitk.WriteImage(labels, str(folder / "segmentation-0.nii.gz"))
    return folder


def test_the_series_is_the_volume_that_simpleitk_writes(package, lits):
    series, volume = read_series(package / "example_ct_dicom"), read_ct(lits / "volume-0.nii")
    assert series.values.shape == (20, 512, 512)
    np.testing.assert_array_equal(series.values, volume.values, strict=True)
    np.testing.assert_array_equal(series.geometry.affine, volume.geometry.affine)
    assert series.spacing_mm == volume.spacing_mm == (2.0, 0.9765625, 0.9765625)


def test_the_published_labels_lie_on_the_liver(package, lits):
    labels = read_labels(package / "example_seg_dicom.nii.gz").values == LIVER
    np.testing.assert_array_equal(labels, read_labels(lits / "segmentation-0.nii.gz").values)
    hu = read_series(package / "example_ct_dicom").values[labels]
    assert 60 < hu.mean() < 110 and hu.std() < 40  # liver without contrast medium and with it
    columns = np.flatnonzero(labels.any(axis=(0, 1)))
    assert columns.mean() < 512 / 2  # the patient's right is at the picture's left
    mask = labels.astype(np.uint8)
    series = read_series(package / "example_ct_dicom")
    write_mask(lits / "written.nii.gz", mask, series)
    written, ct = (sitk.ReadImage(str(lits / n)) for n in ("written.nii.gz", "volume-0.nii"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels)
    assert written.GetSize() == ct.GetSize()
    for place in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, place)() == getattr(ct, place)()


def test_preparation_of_the_full_size(lits, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    out, _ = run(
        *("launch.prepare", f"--config={config}", f"--source={lits}"),
        f"--config.data.data_dir={tmp_path}",
    )
    assert "there is one patient in all" in out
    directory = prepared_directory("liver_ct", tmp_path, **OPTIONS)
    records = [r for split in ("train", "validation", "test") for r in read_split(directory, split)]
    assert sorted(record["slice_index"] for record in records) == list(range(20))
    labels = read_labels(lits / "segmentation-0.nii.gz").values
    for record in records:
        assert record["spacing_mm"].tolist() == [2.0, 3.125, 3.125]
        assert record["class"] == "liver"
        area_mm2 = labels[record["slice_index"]].sum() * 0.9765625**2
        assert record["mask"].sum() * 3.125**2 == pytest.approx(area_mm2, rel=0.02)
