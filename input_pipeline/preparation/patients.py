"""Splits by patient: slices of one patient look alike, so they must not be split apart."""

import hashlib
import itertools
from typing import NamedTuple

from jax_pix2pix.errors import DataError

ONE_PATIENT = (
    "warning: there is one patient to train on, so validation shares it: good for choosing a "
    "checkpoint, no evidence of generalisation"
)


class PatientSplit(NamedTuple):
    train: list
    validation: list
    by_patient: bool  # False: one patient only, whose slices are in both


def split_by_patient(examples, fraction, salt):
    """Holds out a fraction of the patients, at least one and not all, for validation.

    Patients are taken in the order of sha256(salt + patient), so the choice does not depend on the
    order of the examples, and a patient keeps its place in it when others are added. A single
    patient cannot be split: a block of consecutive slices in its middle is held out instead, which
    serves to choose a checkpoint but is no evidence of generalisation.

    Args:
        examples: objects with the attributes `patient` and `slice_index`.
        fraction: of the patients, in (0, 1).
        salt: a string; another one gives another choice.

    Returns:
        PatientSplit, both lists in the order of `examples`.

    Raises:
        DataError: there are fewer than two examples.
    """
    if len(examples) < 2:
        raise DataError(f"{len(examples)} training example(s) cannot be split: add some")
    patients = sorted(
        {example.patient for example in examples},
        key=lambda patient: hashlib.sha256((salt + patient).encode()).hexdigest(),
    )
    if len(patients) > 1:
        count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
        chosen = set(patients[:count])
        held_out = [example.patient in chosen for example in examples]
    else:
        count = min(max(1, round(fraction * len(examples))), len(examples) - 1)
        start = (len(examples) - count) // 2
        by_slice = sorted(range(len(examples)), key=lambda i: examples[i].slice_index)
        chosen = set(by_slice[start : start + count])
        held_out = [i in chosen for i in range(len(examples))]
    train = [example for example, out in zip(examples, held_out, strict=True) if not out]
    validation = [example for example, out in zip(examples, held_out, strict=True) if out]
    return PatientSplit(train, validation, by_patient=len(patients) > 1)


def split_three_ways(examples, test_fraction, validation_fraction, salt):
    """Holds out patients for the test, then some of the others for validation.

    Args:
        examples, salt: as for `split_by_patient`.
        test_fraction: of all patients.
        validation_fraction: of the remaining patients.

    Returns:
        ({"train", "validation", "test": list}, notes for the user on how they were split).

    Raises:
        DataError: there are fewer than three examples, or two patients differ only in case.
    """
    check_spelling(examples)
    rest, test, test_is_apart = split_by_patient(examples, test_fraction, salt)
    train, validation, by_patient = split_by_patient(rest, validation_fraction, salt)
    notes = [f'splits by patient, by sha256("{salt}" + patient)']
    if not by_patient:
        notes.append(ONE_PATIENT)
    if not test_is_apart:
        notes.append("warning: there is one patient in all, who is in every split")
    return {"train": train, "validation": validation, "test": test}, notes


def check_spelling(examples):
    """Raises DataError if two patients differ only in case."""
    spelled = {}
    for example in examples:
        other = spelled.setdefault(example.patient.casefold(), example.patient)
        if other != example.patient:
            raise DataError(
                f"patients {other} and {example.patient} differ in case only: rename one's files"
            )


def check_one_split_each(splits, root):
    """Refuses given splits that share a patient.

    Args:
        splits: {folder's name: list of items with `patient` and `file_name`}.
        root: of the source, for the error.

    Raises:
        DataError: a patient is in two splits.
    """
    for one, other in itertools.combinations(splits, 2):
        # Ignore the case: P1 and p1 are more often one patient than two.
        patients = {item.patient.casefold() for item in splits[one]}
        for item in splits[other]:
            if item.patient.casefold() in patients:
                raise DataError(
                    f"{root / item.file_name} is of patient {item.patient}, who is in {one}/ too: "
                    "keep each patient in one split"
                )
