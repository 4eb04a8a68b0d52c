"""Splits by patient: slices of one patient look alike, so they must not be split apart."""

import hashlib
from typing import NamedTuple

from input_pipeline.safe_io import DataError


class PatientSplit(NamedTuple):
    train: list
    validation: list
    by_patient: bool  # False: one patient only, whose slices are in both


def split_by_patient(examples, fraction, salt):
    """Holds out a fraction of the patients, at least one and not all, for validation.

    Patients are taken in the order of sha256(salt + patient), so the choice does not depend on the
    order of the examples, and a patient keeps its place in it when others are added. A single
    patient cannot be split: then a block of consecutive slices in its middle is held out, which
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
        raise DataError(f"{len(examples)} training slices cannot be split: add slices, or val/")
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
