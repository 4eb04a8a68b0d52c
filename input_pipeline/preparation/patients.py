"""Splits by patient: slices of one patient look alike, so they must not be split apart.

`split` decides who is trained on, who chooses a checkpoint and who is tested; for luna16 it does so
where config names patients or folds, else `datasets/luna16/layouts.py` decides by subset.
"""

import csv
import difflib
import hashlib
import io
import itertools
from typing import NamedTuple

from jax_pix2pix.errors import DataError

ONE_PATIENT = (
    "warning: there is one patient to train on, so validation shares it: good for choosing a "
    "checkpoint, no evidence of generalisation"
)
SPLITS = ("train", "validation", "test")


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


def split(given, config, salt, whole=False):
    """Decides which items are trained on, validated with and tested.

    config.test_patients and config.validation_patients come first, or config.folds; then the
    source's own splits; what is still missing is held out of the patients of train by their hashes.

    Args:
        given: {split of SPLITS: items} that the source has itself, {"train": items} if it has none.
            Items have `patient`, `slice_index` and `file_name`.
        config: the data set's Config.
        salt: as for `split_by_patient`.
        whole: whether a single patient is shared by several splits where it would be cut otherwise.

    Returns:
        ({split: items} for each of SPLITS, notes for the user on how they were split).

    Raises:
        DataError: there are too few examples, two patients differ only in case, config names
            unknown patients, or nobody is left for a split.
    """
    pool = [item for name in SPLITS for item in given.get(name, ())]
    check_spelling(pool)
    hold_out = _share_or_hold_out if whole else split_by_patient
    if config.folds:
        test, notes = _fold(pool, config, salt)
        given = {"train": _without(pool, test), "test": test}
    elif config.test_patients or config.validation_patients:
        given, notes = _chosen(given, pool, config)
    else:
        notes = [
            f"{name} from the source's own {name}"
            for name in ("test", "validation")
            if name in given
        ]
    splits, by_hash = dict(given), [name for name in ("test", "validation") if name not in given]
    alone = len({item.patient for item in pool}) == 1
    for name in by_hash:
        fraction = getattr(config, f"{name}_fraction")
        splits["train"], splits[name], apart = hold_out(splits["train"], fraction, salt)
        if not apart:
            shared = ONE_PATIENT if name == "validation" else _TEST_SHARED
            notes.append(_ONE_IN_ALL if alone else shared)
    if by_hash:
        notes.insert(0, f'{" and ".join(by_hash)} by patient, by sha256("{salt}" + patient)')
    return {name: splits[name] for name in SPLITS}, list(dict.fromkeys(notes))


_ONE_IN_ALL = (
    "warning: there is one patient in all, who is in every split: no evidence of generalisation"
)
_TEST_SHARED = "warning: test shares the one patient of train: no evidence of generalisation"


def fold_of(patient, folds, salt):
    """The fold in which a patient is tested, which does not depend on the other patients."""
    return int(hashlib.sha256(f"{salt}{patient}".encode()).hexdigest(), 16) % folds


def listed(text, field):
    """The names in a text such as 1BA001,1PA004, sorted; "Doe, Jane",1PA004 if one has a comma.

    Raises:
        DataError: quotes do not match.
    """
    try:
        (names,) = csv.reader([text], skipinitialspace=True, strict=True) if text else [()]
    except (csv.Error, ValueError) as error:
        raise DataError(
            f"config.data.{field}={text}: {error}; use names with commas between them"
        ) from None
    return tuple(sorted({name.strip() for name in names} - {""}))


def joined(names):
    """The text that `listed` takes apart again."""
    file = io.StringIO()
    csv.writer(file, lineterminator="").writerow(names) if names else None
    return file.getvalue()


def _fold(pool, config, salt):
    """-> (items of the patients that config.fold tests, notes)."""
    patients = {item.patient for item in pool}
    folds = [fold_of(patient, config.folds, salt) for patient in patients]
    counts = [folds.count(fold) for fold in range(config.folds)]
    test = [item for item in pool if fold_of(item.patient, config.folds, salt) == config.fold]
    told = ", ".join(map(str, counts))
    if not 0 < counts[config.fold] < len(patients):
        raise DataError(
            f"config.data.fold={config.fold} of {config.folds} tests {counts[config.fold]} of "
            f"{len(patients)} patients (in each fold: {told}): use fewer folds, or name "
            "config.data.test_patients"
        )
    return test, [
        f'test is fold {config.fold} of {config.folds}, by sha256("{salt}" + patient); patients in '
        f"each: {told}"
    ]


def _chosen(given, pool, config):
    """The splits with the patients that config names. -> (splits, notes)."""
    known = {item.patient for item in pool}
    chosen = {
        name: set(listed(text, f"{name}_patients"))
        for name in ("test", "validation")
        if (text := getattr(config, f"{name}_patients"))
    }
    for name, patients in chosen.items():
        if unknown := sorted(patients - known):
            near = difflib.get_close_matches(unknown[0], sorted(known), cutoff=0.4)
            raise DataError(
                f"config.data.{name}_patients: there is no patient {unknown[0]}, but "
                f"{', '.join(near or sorted(known)[:3])}: use names of the column patient of "
                "manifest.csv"
            )
    if both := sorted(chosen.get("test", set()) & chosen.get("validation", set())):
        raise DataError(
            f"config.data.test_patients and validation_patients both name {both[0]}: keep one"
        )
    splits = dict(given)
    if "test" in chosen:  # all others, the source's own test too, are free
        splits["test"] = [item for item in pool if item.patient in chosen["test"]]
        splits["train"] = _without(pool, splits["test"] + list(given.get("validation", ())))
        if "validation" in splits:
            splits["validation"] = _without(splits["validation"], splits["test"])
            if not splits["validation"]:
                del splits["validation"]
    if "validation" in chosen:
        tested = {item.patient for item in splits.get("test", ())} & chosen["validation"]
        if tested:
            raise DataError(
                f"config.data.validation_patients: {min(tested)} is in the source's own test: name "
                "config.data.test_patients too"
            )
        rest = _without(pool, splits.get("test", ()))
        splits["validation"] = [item for item in rest if item.patient in chosen["validation"]]
        splits["train"] = _without(rest, splits["validation"])
    if not splits["train"]:
        fields = " and ".join(f"config.data.{name}_patients" for name in chosen)
        raise DataError(f"{fields} leave no patient to train on: name fewer")
    return splits, [f"{name} from config.data.{name}_patients" for name in chosen]


def _without(items, others):
    """The items whose patients are not among those of the others."""
    out = {item.patient for item in others}
    return [item for item in items if item.patient not in out]


def _share_or_hold_out(items, fraction, salt):
    """As `split_by_patient`, but a single patient is in both."""
    if len({item.patient for item in items}) < 2:
        return PatientSplit(items, items, by_patient=False)
    return split_by_patient(items, fraction, salt)


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
                    "keep each patient in one split, or set config.data.patient_pattern"
                )
