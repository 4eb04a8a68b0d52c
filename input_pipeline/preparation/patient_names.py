"""Who is who in files: the patient in a file's name, and names that may not tell patients apart."""

import os
import re
from pathlib import PurePath
from typing import NamedTuple

from jax_pix2pix.errors import DataError

_WORDS = r"(?:slice|view|img|image|im|frame|scan|ses|run|v|s)"  # for one of several
_OF_SEVERAL = rf"{_WORDS}[_-]?"
# For pictures of which a patient has one or few: 00000003_001, patient-12_3, MCUCXR_0001_0 and
# PATIENT_view_0012 end in the number of a picture, IMG_0001 and JPCLN001 in that of a patient.
PATIENT = rf"(.*\d[^_-]*(?=[_-](?:{_OF_SEVERAL})?\d+$)|.+(?=[_-]{_OF_SEVERAL}\d+$)|.+)"
# For slices, of which a patient has many: a number at the end is always a slice's.
PATIENT_OF_SLICES = rf"(.+?)(?:[_-](?:{_OF_SEVERAL})?\d+)?"
EACH_ITS_OWN = ("(.*)", "(.+)")  # patterns by which the user says that each file is a patient
MANY = 50  # pictures; more are hardly of one patient, so that covid_1 to covid_99 are of a class
HANDFUL = 5  # pictures; so few may well be of a patient each. Scans of one patient, too
_NUMBERED = re.compile(rf"(.*\w)[_\- ]+\(?{_WORDS}?\d+\)?", re.IGNORECASE)


class Names(NamedTuple):
    """How a data set knows its patients, if by the names of files or folders that others chose."""

    pattern: str = ""  # config.data.patient_pattern, for pictures; "": a volume is a patient
    settled_by: str = ""  # for volumes, what the user does if names mislead
    of_slices: bool = False  # whether pictures are slices, of which a patient has any number


def patient_of(match, pattern, path, doing="change the pattern, or rename the file"):
    """Group 1 of a match of the pattern, the patient.

    Raises:
        DataError: there is no match, or group 1 is empty.
    """
    if not match or not match[1]:
        raise DataError(f"{path} names no patient by patient_pattern {pattern}: {doing}")
    return match[1]


def check_names(splits, names, root):
    """Looks for patients that names tell apart wrongly.

    Files are plausibly of one patient if their names are equal up to a last separator and number,
    and each counts as a patient of its own. A volume is only doubted if what is equal has a number
    too, as in sub-01_1 and sub-01_2: volume-1 and volume-2 are two patients. Where more than MANY
    pictures share a name without a number, such names are of classes, which is warned of.

    Args:
        splits: {split: items with `patient` and `file_name`}.
        names: Names, or None if patients are known otherwise.
        root: of the source.

    Returns:
        Warnings, lines for the user.

    Raises:
        DataError: such files are in two splits.
    """
    if names is None or names.pattern.strip("^$") in EACH_ITS_OWN:
        return []
    files = {item.file_name: (split, item) for split in splits for item in splits[split]}
    families = {}
    for split, item in files.values():
        if match := _NUMBERED.fullmatch(_name(item, names)):
            families.setdefault(match[1], []).append((split, item))
    by_class, several = _by_class(families, names), sum(len(of) > 1 for of in families.values())
    alone = 0  # files of classes, a patient each
    for prefix, found in families.items():
        if len({item.patient for _, item in found}) < len(found):
            continue  # the pattern knows more of these names
        numbered = bool(re.search(r"\d", prefix))
        if by_class and not numbered:
            alone += len(found)
            continue
        elsewhere = [item for split, item in found if split != found[0][0]]
        doubtful = several > 1 if names.pattern else numbered and len(found) <= HANDFUL
        if elsewhere and doubtful and len(families) > 1:
            first, second = root / found[0][1].file_name, root / elsewhere[0].file_name
            raise DataError(
                f"{first} and {second} are plausibly of one patient, {prefix}, but would be in two "
                f"splits: {_settling(names)}"
            )
    patients = {item.patient for _, item in files.values()}
    if len(patients) == len(files):
        alone = len(files)
    if names.pattern and alone > HANDFUL:
        return [
            f"warning: each of {alone} pictures is a patient of its own by {names.pattern}: "
            "pictures of one patient may be in several splits, and intervals are by picture; if "
            "so, set config.data.patient_pattern so that group 1 is the patient, else '(.*)'"
        ]
    return []


def _name(item, names):
    """The name without ending or, if the pattern has a "/", the path; of a volume the patient."""
    if not names.pattern:
        return item.patient
    path = os.path.splitext(item.file_name)[0]
    return path if "/" in names.pattern else PurePath(path).name


def _by_class(families, names):
    """Whether files are named by classes, {prefix: files}, of which one has more than MANY."""
    pictures = names.pattern and not names.of_slices
    return bool(pictures) and any(
        len(found) > MANY and not re.search(r"\d", prefix) for prefix, found in families.items()
    )


def _settling(names):
    if not names.pattern:
        return names.settled_by
    return (
        r"if so, use --config.data.patient_pattern='(.+?)(?:[_ -]+\(?\d+\)?)?$'; if each file is a "
        "patient of its own, '(.*)'"
    )


def told(splits, examples=True):
    """The number of patients and of their files, and two of these as examples, in a line."""
    files = {item.file_name: item.patient for items in splits.values() for item in items}
    first = {}  # patient: file
    for name in sorted(files):
        first.setdefault(files[name], name)
    line = f"{len(first)} patients in {len(files)} files"
    if not examples:
        return f"{line}; who is who is in the file of pseudonyms"
    return f"{line}, such as " + ", ".join(
        f"{name} -> {patient}" for patient, name in list(first.items())[:2]
    )
