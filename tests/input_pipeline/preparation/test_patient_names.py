"""Patients in the names of files."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from configs import mri2ct, xray_lungs
from input_pipeline.preparation.patient_names import (
    PATIENT,
    PATIENT_OF_SLICES,
    Names,
    check_names,
    told,
)
from jax_pix2pix.errors import DataError


class Item(NamedTuple):
    patient: str
    file_name: str


@pytest.mark.parametrize(
    ("name", "of_one_or_few", "of_slices"),
    [
        ("00000003_001", "00000003", "00000003"),
        ("patient-12_3", "patient-12", "patient-12"),
        ("TS-CTA-0001_view_0010", "TS-CTA-0001", "TS-CTA-0001"),
        ("MCUCXR_0001_0", "MCUCXR_0001", "MCUCXR_0001"),
        ("Doe_slice_0001", "Doe", "Doe"),
        ("P0_slice9", "P0", "P0"),
        ("IMG_0001", "IMG_0001", "IMG"),
        ("JPCLN001", "JPCLN001", "JPCLN001"),
        ("0001", "0001", "0001"),
    ],
)
def test_patterns_of_the_data_sets(name, of_one_or_few, of_slices):
    assert re.match(PATIENT, name)[1] == of_one_or_few
    assert re.fullmatch(PATIENT_OF_SLICES, name)[1] == of_slices
    assert xray_lungs.PATIENT == PATIENT
    assert mri2ct.get_config().data.patient_pattern == PATIENT_OF_SLICES


def placed(names, pattern="(.+)x?", test=(), ending="png"):
    """{split: items} of these names, with those of `test` in the test."""
    items = [(name, Item(re.match(pattern, name)[1], f"img/{name}.{ending}")) for name in names]
    return {
        "train": [item for name, item in items if name not in test],
        "test": [item for name, item in items if name in test],
    }


NIH = [f"0000000{patient}_00{picture}" for patient in range(4) for picture in range(4)]


@pytest.mark.parametrize(
    ("names", "one", "other", "prefix"),
    [
        (NIH, "00000000_000", "00000000_002", "00000000"),
        (["Doe_1", "Doe_2", "Roe_1", "Roe_2"], "Doe_1", "Doe_2", "Doe"),
        (["P1 (1)", "P1 (2)", "P2 (1)", "P2 (2)"], "P1 (1)", "P1 (2)", "P1"),
    ],
)
def test_pictures_of_one_patient_in_two_splits_are_refused(names, one, other, prefix):
    with pytest.raises(DataError) as caught:
        check_names(placed(names, test=[other]), Names("(.+)x?"), Path("/source"))
    message = str(caught.value)
    assert f"/source/img/{one}.png and /source/img/{other}.png" in message
    assert f"of one patient, {prefix}, but" in message and "\n" not in message
    (pattern,) = re.findall(r"--config.data.patient_pattern='([^']+)'", message)
    assert all(re.match(pattern, name)[1] == re.split(r"_| \(", name)[0] for name in names)
    # What the refusal names settles it: the pattern, or saying that each file is a patient.
    kept = [name for name in names if re.match(pattern, name)[1] == re.match(pattern, other)[1]]
    assert not check_names(placed(names, pattern, kept), Names(pattern), Path("/source"))
    assert not check_names(placed(names, test=[other]), Names("(.*)"), Path("/source"))


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:04d}" for number in range(9)],
        [f"IMG_{number:04d}" for number in range(9)],
        [f"JPCLN00{number}" for number in range(9)],
    ],
)
def test_names_that_may_be_of_patients_are_warned_of(names):
    (warning,) = check_names(placed(names, test=names[3:5]), Names("(.+)x?"), Path("/source"))
    assert "warning: each of 9 pictures is a patient of its own" in warning
    assert not check_names(placed(names[:5], test=names[3:5]), Names("(.+)x?"), Path("/source"))


def test_pictures_named_by_classes_are_warned_of():
    """As many X-ray sets are; each file is of its own patient."""
    names = [f"{name}_{n}" for name, count in (("covid", 60), ("normal", 9)) for n in range(count)]

    def checked(names, pattern=PATIENT, **options):
        splits = placed(names, pattern, test=names[::5])
        return check_names(splits, Names(pattern, **options), Path("/source"))

    (warning,) = checked(names)
    assert "warning: each of 69 pictures is a patient of its own by" in warning
    assert "set config.data.patient_pattern so that group 1 is the patient, else '(.*)'" in warning
    # Beside others, too, whose patients are known by their numbers.
    (warning,) = checked([*names, *NIH, "patient-12_3", "patient-12_4"])
    assert "each of 69 pictures is a patient" in warning
    numbered = [f"{name}_{n}" for name in ("P1", "P2") for n in range(60)]
    for given, options in ((numbered, {}), (names, {"of_slices": True}), (names[-20:], {})):
        with pytest.raises(DataError, match="plausibly of one patient"):
            checked(given, "(.+)x?", **options)


def test_a_pattern_that_knows_more_of_the_names_is_believed():
    names = ["site1_001a", "site1_001b", "site1_002", "site1_003", "site2_001", "site2_002"]
    splits = placed(names, r"(\w+_\d+)", test=["site1_002", "site2_002"])
    splits["train"].append(Item("site1_002", "img/site1_4.png"))
    splits["test"].append(Item("site2_002", "img/site2_5.png"))
    assert not check_names(splits, Names(r"(\w+_\d+)"), Path("/source"))


@pytest.mark.parametrize(
    "names",
    [
        [f"volume-{number}" for number in range(131)],
        [f"1BA00{number}" for number in range(9)],
        [f"liver_{number}" for number in range(9)],
        [f"coronacases_00{n}" for n in range(5)] + [f"lung_{n}" for n in range(5)],
        [f"FLARE22_{part}_{n:04d}" for part in ("Tr", "Ts") for n in range(20)],
        [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{number}" for number in range(100, 120)],
    ],
    ids=lambda names: names[0],
)
def test_volumes_that_are_a_patient_each_pass_quietly(names):
    splits = placed(names, test=names[::3])
    assert not check_names(splits, Names(settled_by="write a table"), Path("/source"))


@pytest.mark.parametrize("names", [["sub-01_1", "sub-01_2"], ["P7_ses-01", "P7_ses-02"]])
def test_scans_of_one_patient_in_two_splits_are_refused(names):
    splits = placed([*names, "sub-02_1", "sub-03"], test=names[:1], ending="mha")
    with pytest.raises(DataError, match=r"plausibly of one patient.*two splits: write a table"):
        check_names(splits, Names(settled_by="write a table"), Path("/source"))
    assert not check_names(splits, None, Path("/source"))  # a table said so


def test_patients_and_two_of_their_files_are_told():
    splits = placed(NIH, r"(\d+)_", test=NIH[:4])
    assert told(splits) == (
        "4 patients in 16 files, such as img/00000000_000.png -> 00000000, "
        "img/00000001_000.png -> 00000001"
    )
    assert told(splits, examples=False).startswith("4 patients in 16 files; who is who is in")
