"""Splits by patient."""

import hashlib
import random
from typing import NamedTuple

import pytest

from input_pipeline.preparation.patients import split_by_patient, split_three_ways
from jax_pix2pix.errors import DataError


class Item(NamedTuple):
    patient: str
    slice_index: int


def items(patients, slices=4):
    return [Item(f"P{p}", k) for p in range(patients) for k in range(slices)]


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
    for split, patients in parts.items():
        assert {item.patient for item in splits[split]} == {f"P{p}" for p in patients}
        assert len(splits[split]) == 4 * len(patients)


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
    assert len(notes) == 3 and "in every split" in notes[2]


def test_three_ways_refuse_spellings_and_too_little():
    with pytest.raises(DataError, match="P1 and p1 differ in case only"):
        split_three_ways([*items(4), Item("p1", 9)], 0.2, 0.2, "")
    with pytest.raises(DataError, match="cannot be split"):
        split_three_ways(items(2, slices=1), 0.2, 0.2, "")
