"""The layout of LUNA16, or of any folder of volumes, and which are held out. No TensorFlow.

    subset0/ ... subset9/           volumes of any supported format, at any depth; the
                                    number decides the split
    seg-lungs-LUNA16/               lung masks of the same names
    patients.csv                    columns seriesuid, patient: series of one patient stay together

Volumes outside of the subsets are allowed. The series is the file's name without its ending.
"""

import re
from pathlib import Path
from typing import NamedTuple

from input_pipeline.preparation import patients
from input_pipeline.preparation.patients import check_spelling, split_by_patient
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.volume_file import ENDINGS, without_ending

MASKS = "seg-lungs-LUNA16"
TABLE = "patients.csv"
SUBSET = re.compile(r"subset(\d+)", re.IGNORECASE)
SALT = "luna16"
SPLITS = ("train", "validation", "test")  # a patient in several of them goes to the last


class Series(NamedTuple):
    """A volume. Names are relative to the source folder."""

    patient: str
    name: str
    file_name: str
    subset: int | None
    mask_name: str  # "": there is none
    slice_index: int = 0  # for `patients.split`


def find_series(folder, with_masks):
    """Lists the volumes of a SourceFolder by name, and their masks if `with_masks`.

    Raises:
        DataError: there are no volumes; a series or a mask is duplicated; a series has no mask; a
            file is empty or a link to elsewhere; or the table is invalid.
    """
    volumes, masks = {}, {}
    for entry, parents in _files(folder, folder.root):
        is_mask = MASKS.lower() in map(str.lower, parents)
        if is_mask and not with_masks:
            continue
        table, name = masks if is_mask else volumes, without_ending(entry.name)
        name = name.casefold() if is_mask else name
        if name in table:
            raise DataError(
                f"{entry.path} and {folder.root / table[name][0]} are the same series: remove one"
            )
        table[name] = folder.add_volume(entry), parents
    if not volumes:
        raise DataError(
            f"{folder.root} holds no volume ({', '.join(ENDINGS)}): --source must hold LUNA16's "
            "subset0 to subset9, or other chest CT"
        )
    missing = sorted(name for name in volumes if name.casefold() not in masks)
    if with_masks and missing:
        raise DataError(
            f"{folder.root / volumes[missing[0]][0]} has no lung mask: add {MASKS}/{missing[0]}.mhd"
        )
    patients = _patients(folder, volumes)
    return [
        Series(patients[name], name, path, _subset(parents), masks.get(name.casefold(), ("",))[0])
        for name, (path, parents) in sorted(volumes.items())
    ]


def split(series, config, root):
    """Splits as the config says, or by subset; patients in no subset by the hashes of their names.

    Args:
        series: list of Series.
        config: the data set's Config.

    Returns:
        ({split: list of Series}, notes for the user).

    Raises:
        DataError: no volume is left to train on, two patients differ only in case, or as
            `patients.split`.
    """
    check_spelling(series)
    splits_of = {}  # patient: numbers of SPLITS
    of_subset = dict.fromkeys(config.validation_subsets, 1) | dict.fromkeys(config.test_subsets, 2)
    for one in series:
        if one.subset is not None:
            splits_of.setdefault(one.patient, set()).add(of_subset.get(one.subset, 0))
    several = {patient for patient, numbers in splits_of.items() if len(numbers) > 1}
    chosen = {patient: max(numbers) for patient, numbers in splits_of.items()}
    if config.folds or config.test_patients or config.validation_patients:
        own = {
            name: [one for one in series if chosen.get(one.patient, 0) == number]
            for number, name in enumerate(SPLITS)
        }
        own = {name: found for name, found in own.items() if found or name == "train"}
        splits, notes = patients.split(own, config, SALT, whole=True)
        kept = [name for name in ("test", "validation") if _is_kept(name, own, splits, config)]
        held_out = {one.patient for name in kept for one in splits[name]}
        return splits, notes + _of_subsets(kept, several & held_out, config)
    notes = _of_subsets(("test", "validation"), several, config) if splits_of else []
    free = [Patient(one.patient) for one in series if one.patient not in chosen]
    if free:
        notes.append(f'patients in no subset by sha256("{SALT}" + patient)')
        free, test = _hold_out(free, config.test_fraction)
        train, validation = _hold_out(free, config.validation_fraction)
        for number, of_split in enumerate((train, validation, test)):
            chosen |= {one.patient: number for one in of_split}
    splits = {
        name: [one for one in series if chosen[one.patient] == number]
        for number, name in enumerate(SPLITS)
    }
    if len(chosen) == 1:
        notes.append("warning: there is one patient in all, who is in every split")
        return dict.fromkeys(SPLITS, series), notes
    if not splits["train"]:
        raise DataError(
            f"{root} holds no volume to train on: all are of test_subsets "
            f"{_list(config.test_subsets)} or validation_subsets {_list(config.validation_subsets)}"
        )
    for name in ("validation", "test"):
        if not splits[name]:
            splits[name] = splits["train"]
            notes.append(
                f"warning: there is no volume for {name}, so it shares the training volumes: no "
                "evidence of generalisation"
            )
    return splits, notes


def _is_kept(name, own, splits, config):
    """Whether a split is what is left of the subsets' own, `own`, and nothing else decided it."""
    if config.folds or getattr(config, f"{name}_patients"):
        return False
    patients_of = {one.patient for one in own.get(name, ())}
    return {one.patient for one in splits[name]} <= patients_of


def _of_subsets(names, several, config):
    """Notes on splits that are those of subsets; several: patients of them, of several subsets."""
    notes = []
    if names:
        of_each = (
            f"{name} from subsets {_list(getattr(config, f'{name}_subsets'))}" for name in names
        )
        notes.append(", ".join(of_each))
    if several:
        notes.append(
            lambda name: (
                "in subsets of several splits, taken to the one held out: "
                + ", ".join(map(name, sorted(several)))
            )
        )
    return notes


class Patient(NamedTuple):
    """A volume in the form that `split_by_patient` takes."""

    patient: str
    slice_index: int = 0


def _hold_out(patients, fraction):
    """(the others, a fraction of the patients). A single patient is not held out."""
    if len({one.patient for one in patients}) < 2:
        return patients, []
    rest, held_out, _ = split_by_patient(patients, fraction, SALT)
    return rest, held_out


def _patients(folder, volumes):
    """{series: patient} from the table; without a table each series is a patient."""
    path = folder.named(TABLE)
    if not path.exists():
        return {name: name for name in volumes}
    folder.add(path)
    found = {}
    for number, row in read_table(path, ("seriesuid", "patient"), "seriesuid,patient"):
        if found.setdefault(row["seriesuid"], row["patient"]) != row["patient"]:
            raise DataError(
                f"{path} gives {row['seriesuid']} a second patient in line {number}: keep one"
            )
    if missing := sorted(volumes.keys() - found.keys()):
        raise DataError(f"{path} has no line for {missing[0]}: add it")
    return found


def _files(folder, path):
    """Yields (os.DirEntry, names of the folders from the root to it) of all volumes."""
    for entry in folder.entries(path):
        if entry.is_dir(follow_symlinks=False):  # a link's target is found in its own place
            yield from _files(folder, entry.path)
        elif entry.name.lower().endswith(ENDINGS):
            yield entry, Path(path).relative_to(folder.root).parts


def _subset(parents):
    """The number of the innermost subset folder, or None."""
    for name in reversed(parents):
        if match := SUBSET.fullmatch(name):
            return int(match[1])
    return None


def _list(numbers):
    return ", ".join(map(str, numbers)) or "none"
