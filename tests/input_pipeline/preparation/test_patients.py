"""Splits by patient."""

import hashlib
import random
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from input_pipeline.preparation.patients import fold_of, joined, listed, split, split_by_patient
from jax_pix2pix.errors import DataError


class Item(NamedTuple):
    patient: str
    slice_index: int


def items(patients, slices=4):
    return [Item(f"P{p}", k) for p in range(patients) for k in range(slices)]


def config(**options):
    fields = {"test_patients": "", "validation_patients": "", "folds": 0, "fold": 0}
    return SimpleNamespace(**fields | {"test_fraction": 0.2, "validation_fraction": 0.2} | options)


def split_three_ways(examples, test_fraction, validation_fraction, salt):
    fractions = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    return split({"train": examples}, config(**fractions), salt)


def patients_of(splits):
    return {name: {item.patient for item in found} for name, found in splits.items()}


@pytest.mark.parametrize(("patients", "held_out"), [(2, 1), (5, 1), (10, 1), (20, 2), (36, 4)])
def test_whole_patients_are_held_out(patients, held_out):
    everything = items(patients)
    train, validation, by_patient = split_by_patient(everything, 0.1, "salt")
    assert by_patient
    assert sorted(train + validation) == sorted(everything)
    assert not {item.patient for item in train} & {item.patient for item in validation}
    assert len({item.patient for item in validation}) == held_out
    assert train == [item for item in everything if item in set(train)]  # the order is kept


def test_never_all_patients():
    assert len({item.patient for item in split_by_patient(items(2), 0.9, "").validation}) == 1


def test_does_not_depend_on_the_order_but_on_the_salt():
    everything = items(30)
    chosen = set(split_by_patient(everything, 0.2, "salt").validation)
    random.Random(0).shuffle(everything)
    assert set(split_by_patient(everything, 0.2, "salt").validation) == chosen
    assert set(split_by_patient(everything, 0.2, "pepper").validation) != chosen


def test_patients_keep_their_place_when_others_join():
    few = {item.patient for item in split_by_patient(items(20), 0.5, "salt").train}
    # Those of the first 20 patients that are late in the order stay late when 20 more join.
    many = split_by_patient(items(40), 0.5, "salt")
    late = {item.patient for item in many.train} & {f"P{p}" for p in range(20)}
    assert late <= few or few <= late


def test_golden():
    chosen = {item.patient for item in split_by_patient(items(10), 0.3, "lidc_masks").validation}
    assert chosen == {"P3", "P6", "P8"}


def test_one_patient_gives_a_block_in_the_middle():
    everything = items(1, slices=20)
    random.Random(0).shuffle(everything)
    train, validation, by_patient = split_by_patient(everything, 0.1, "salt")
    assert not by_patient
    assert sorted(item.slice_index for item in validation) == [9, 10]
    assert sorted(train + validation) == sorted(everything)


def test_one_slice_cannot_be_split():
    with pytest.raises(DataError):
        split_by_patient(items(1, slices=1), 0.1, "salt")
    assert len(split_by_patient(items(1, slices=2), 0.1, "salt").validation) == 1


def test_three_ways_follow_the_hashes():
    everything = items(20)
    splits, notes = split_three_ways(everything, 0.2, 0.25, "salt")
    assert len(notes) == 1 and '"salt"' in notes[0]
    assert sorted(item for part in splits.values() for item in part) == sorted(everything)
    order = sorted(range(20), key=lambda p: hashlib.sha256(f"saltP{p}".encode()).digest())
    parts = {"test": order[:4], "validation": order[4:8], "train": order[8:]}
    for name, patients in parts.items():
        assert {item.patient for item in splits[name]} == {f"P{p}" for p in patients}
        assert len(splits[name]) == 4 * len(patients)


def test_three_ways_with_two_patients_share_the_one_to_train_on():
    splits, notes = split_three_ways(items(2, slices=10), 0.2, 0.2, "salt")
    (tested,) = {item.patient for item in splits["test"]}
    others = {item.patient for item in splits["train"] + splits["validation"]}
    assert len(splits["test"]) == 10 and len(others) == 1 and tested not in others
    assert [item.slice_index for item in splits["validation"]] == [4, 5]
    assert len(notes) == 2 and "no evidence" in notes[1]


def test_three_ways_with_one_patient_are_blocks_and_warned_of():
    splits, notes = split_three_ways(items(1, slices=20), 0.2, 0.25, "salt")
    indices = {split: [item.slice_index for item in part] for split, part in splits.items()}
    assert indices["test"] == [8, 9, 10, 11]
    assert indices["validation"] == [6, 7, 12, 13]  # the middle of the remaining slices
    assert indices["train"] == [*range(6), *range(14, 20)]
    assert len(notes) == 2 and "in every split" in notes[1]


def test_three_ways_refuse_spellings_and_too_little():
    with pytest.raises(DataError, match="P1 and p1 differ in case only"):
        split_three_ways([*items(4), Item("p1", 9)], 0.2, 0.2, "")
    with pytest.raises(DataError, match="cannot be split"):
        split_three_ways(items(2, slices=1), 0.2, 0.2, "")


# Named patients and folds.

OWN = {"train": items(3), "test": [Item("T1", 0), Item("T2", 0)]}


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        (  # three patients only
            {"train": items(3)},
            {"test_patients": "P1", "validation_patients": "P2"},
            {"train": {"P0"}, "validation": {"P2"}, "test": {"P1"}},
        ),
        (OWN, {"validation_patients": "P0,P1"}, {"train": {"P2"}, "test": {"T1", "T2"}}),
        (OWN, {"test_patients": "P0", "validation_patients": "T1"}, {"train": {"P1", "P2", "T2"}}),
        (OWN | {"validation": [Item("V", 0)]}, {"test_patients": "P0"}, {"validation": {"V"}}),
        (OWN | {"validation": [Item("V", 0)]}, {"test_patients": "V"}, {"test": {"V"}}),
    ],
)
def test_named_patients_are_held_out(given, options, expected):
    splits, notes = split(given, config(**options), "salt")
    found = patients_of(splits)
    assert found | expected == found
    everyone = [patient for patients in found.values() for patient in patients]
    assert sorted(everyone) == sorted({item.patient for part in given.values() for item in part})
    for field in options:
        assert any(f"from config.data.{field}" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_patients": "P1,P9"}, "config.data.test_patients: there is no patient P9, but P"),
        ({"validation_patients": "x"}, "config.data.validation_patients: there is no patient x"),
        ({"test_patients": "P1", "validation_patients": "P1,P2"}, "both name P1: keep one"),
        ({"validation_patients": "T1"}, "T1 is in the source's own test: name config.data.test_p"),
        (
            {"test_patients": "P0,P1,P2,T1,T2"},
            "config.data.test_patients leave no patient to train",
        ),
        ({"test_patients": '"P1'}, "use names with commas between them"),
        ({"folds": 40, "fold": 3}, "config.data.fold=3 of 40 tests 0 of 5 patients"),
    ],
    ids=str,
)
def test_names_and_folds_that_do_not_fit_are_refused(options, words):
    with pytest.raises(DataError) as caught:
        split(OWN, config(**options), "salt")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_names_come_back_from_their_text():
    names = ("Doe, Jane", "P1", 'called "it"')
    assert listed(joined(names), "test_patients") == tuple(sorted(names))
    assert listed("b, a ,b,", "test_patients") == ("a", "b") and joined(()) == ""


def test_each_patient_is_tested_in_one_fold_and_stays_there():
    tested = {}
    for fold in range(4):
        splits, notes = split({"train": items(20)}, config(folds=4, fold=fold), "salt")
        found = patients_of(splits)
        assert sorted(set.union(*found.values())) == sorted(f"P{p}" for p in range(20))
        assert not found["test"] & (found["train"] | found["validation"])
        assert len(found["validation"]) == round(0.2 * (20 - len(found["test"])))
        assert f"test is fold {fold} of 4" in notes[1]
        for patient in found["test"]:
            assert patient not in tested
            tested[patient] = fold
    assert len(tested) == 20
    assert all(fold_of(patient, 4, "salt") == fold for patient, fold in tested.items())
    more, _ = split({"train": items(60)}, config(folds=4, fold=2), "salt")
    assert {p for p, fold in tested.items() if fold == 2} <= patients_of(more)["test"]


def test_folds_test_those_of_the_sources_own_test_too():
    tested = set()
    for fold in range(2):
        splits, _ = split(OWN, config(folds=2, fold=fold), "salt")
        tested |= patients_of(splits)["test"]
    assert tested == {"P0", "P1", "P2", "T1", "T2"}
