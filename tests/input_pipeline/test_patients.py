"""Splits by patient."""

import random
from typing import NamedTuple

import pytest

from input_pipeline.patients import split_by_patient
from input_pipeline.safe_io import DataError


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
    # Of the first 20 patients, those late in the order stay late when 20 more join.
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
