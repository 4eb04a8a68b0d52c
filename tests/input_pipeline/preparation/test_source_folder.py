"""The account of a source folder, and names in any case, in every data set of volumes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.datasets.lidc_masks import lidc_masks_dataset_builder as lidc_masks
from input_pipeline.datasets.liver_ct import liver_ct_dataset_builder as liver_ct
from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.datasets.mri_ct import mri_ct_dataset_builder as mri_ct
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError
from tests.imaging.test_dicom import write_series
from tests.input_pipeline.datasets.test_liver_ct import lits
from tests.input_pipeline.pairs import write_pair

SERIES = np.zeros((2, 3, 4), np.int16)


def patients(source):
    for number in range(3):
        write_pair(source / f"P{number}", number, mask=False)
    return source


def found_patients(found):
    return {item.patient for items in found.splits.values() for item in items}


def test_no_patient_is_left_out_for_the_case_of_a_name(tmp_path):
    source = patients(tmp_path / "mr")
    for name in ("mr", "ct"):
        (source / "P1" / f"{name}.nii.gz").rename(source / "P1" / f"{name.upper()}.nii.GZ")
    assert found_patients(mri_ct.find(source, mri_ct.Config(stored_size=16))) == {"P0", "P1", "P2"}
    source = lits(tmp_path / "liver", (0, 2, 4))
    path = next(source.rglob("volume-2.nii"))
    path.rename(path.with_name("volume-2.NII"))
    found = liver_ct.find(source, liver_ct.Config(stored_size=16))
    assert found_patients(found) == {"volume-0", "volume-2", "volume-4"}


def test_a_patient_with_a_dicom_series_alone_is_not_left_out(tmp_path):
    source = patients(tmp_path / "mr")
    write_series(source / "P0" / "dicom", SERIES)
    (source / "P1" / "t2.nii.gz").write_bytes(b"x")
    (source / "P1" / "view.png").write_bytes(b"x")
    account = mri_ct.find(source, mri_ct.Config(stored_size=16)).account
    assert "6 used, 4 passed over (2 a DICOM file that is no part of the layout" in account.line()
    assert account.why("P1/t2.nii.gz") == "a volume that is no part of the layout"
    write_series(source / "P9", SERIES)
    with pytest.raises(DataError, match=r"P9 holds DICOM files, .*, beside no volume"):
        mri_ct.find(source, mri_ct.Config(stored_size=16))


def test_what_is_used_through_links_is_told_once_as_used(tmp_path):
    source = patients(tmp_path / "mr")
    used = set()
    for name in ("mr.nii.gz", "ct.nii.gz"):
        linked = source / "P9" / name
        linked.parent.mkdir(exist_ok=True)
        target = source / "store" / f"9{name}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source / "P0" / name, target)
        linked.symlink_to(target)
        used |= {f"P{number}/{name}" for number in (0, 1, 2, 9)}
    (source / "spare").symlink_to(source / "store")
    account = mri_ct.find(source, mri_ct.Config(stored_size=16)).account
    assert set(account.names("used")) == used and account.names("passed over") == ["spare"]
    folder = SourceFolder(tmp_path)
    (tmp_path / "A").symlink_to(source / "P0")
    folder.add(tmp_path / "A" / "mr.nii.gz")
    account = folder.account()
    assert account.names("used") == ["A/mr.nii.gz"]
    assert not {"A", "mr/P0/mr.nii.gz"} & set(account.names("passed over"))


def test_a_mask_that_another_replaces_is_not_used(tmp_path):
    folder = tmp_path / "train" / "clean"
    folder.mkdir(parents=True)
    for name in ("slice_0001.png", "lung_mask_0001.npy", "combined_mask_0001.npy"):
        (folder / f"P1_{name}").write_bytes(b"x")
    source = SourceFolder(tmp_path)
    (clean,) = source.entries(folder.parent)
    lidc_masks._pairs(source, clean, "(.+)")
    account = source.account()
    assert account.names("passed over") == ["train/clean/P1_lung_mask_0001.npy"]
    assert account.why("train/clean/P1_lung_mask_0001.npy") == "a lung mask beside a combined one"


def test_volumes_and_a_series_in_one_folder_of_chest_ct(tmp_path):
    source = tmp_path / "chest"
    shutil.copytree(Path(prepared.SAMPLES) / "chest_volumes", source)
    (source / "patients.csv").rename(source / "Patients.CSV")
    found = luna16.find(source, luna16.Config())
    used = set(found.account.names("used"))
    assert used == {
        "Patients.CSV", "subset0/TS-CTA-0001.mhd", "subset0/TS-CTA-0001.raw",
        "subset9/PR-LUNG1-0001.mhd", "subset9/PR-LUNG1-0001.zraw",
    }  # fmt: skip
    assert found_patients(found) == {"TS-CTA-0001", "PR-LUNG1-0001"}
    write_series(source / "subset1", SERIES)
    with pytest.raises(DataError, match=r"subset1 holds DICOM files"):
        luna16.find(source, luna16.Config())
