"""The layouts of pairs of a source, MR or cone beam CT, and a CT on disk. No TensorFlow.

Pictures, PNG, JPEG or TIFF, whose names are equal without ending: the source in A, the CT in B:

    trainA/ trainB/ [valA/ valB/] [testA/ testB/]
    A/ B/                           or A/train/ B/train/ [A/val/ B/val/] [A/test/ B/test/]
    both side by side in one        or in train/ [val/] [test/]

Registered volumes of any format of `imaging.volume_file`:

    pairs.csv                       columns patient, source, ct and, where there are masks, mask:
                                    paths relative to the table's folder
    .../PATIENT/                    mr or cbct, ct and an optional mask, as in SynthRAD

A folder around PATIENT may be a region of the body, as SynthRAD's brain, or hold all patients.
Several others could as well be patients with a folder for each study: patient_pattern settles that.

Nothing is decoded.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from input_pipeline.preparation.pseudonyms import names_nobody
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.safe_io import PICTURES
from jax_pix2pix.imaging.volume_file import ENDINGS, without_ending

MODALITIES = ("mr", "cbct", "ct")  # "ct": a CT is its own source
SPLITS = ("train", "val", "test")
PICTURE = re.compile(f"(?P<stem>.+)({'|'.join(map(re.escape, PICTURES))})", re.IGNORECASE)
TABLE = "pairs.csv"
COLUMNS = ("patient", "source", "ct")
# A folder with such a name is a study, 2024-03-01 or 20240301_120000 for instance.
DATE = re.compile(r"(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])([-_.T ].*)?")
INNER, OUTER = r"(?:.*/)?([^/]+)/[^/]+", r"(?:.*/)?([^/]+)/[^/]+/[^/]+"  # patterns of the patient
VOLUME = re.compile(
    f"(?P<what>{'|'.join(MODALITIES)}|mask)({'|'.join(map(re.escape, ENDINGS))})", re.IGNORECASE
)


class Pictures(NamedTuple):
    """A pair of pictures. Names are relative to the source folder."""

    stem: str  # the name without ending
    source: str
    ct: str  # equal to source where both are side by side in one file


class Volumes(NamedTuple):
    """A pair of registered volumes. Names are relative to the source folder."""

    patient: str
    region: str  # the folder that holds the patients' folders, such as brain, or ""
    source: str
    ct: str
    mask: str  # "": there is none


def find_pairs(folder, modality, patient_pattern=""):
    """Recognises the layout of a source folder and lists its pairs.

    Args:
        folder: SourceFolder.
        modality: one of MODALITIES, the name of the source in a pair of volumes.
        patient_pattern: if it has a "/", its group 1 is the patient of folders of volumes: it
            matches the source's path within the root, without ending.

    Returns:
        {split of SPLITS: [Pictures] or [Volumes]}; only "train" if the source has no splits.

    Raises:
        DataError: none or several layouts fit; a file is misnamed, unpaired, empty, duplicated or
            a link to elsewhere; a split is empty; or folders do not tell which is the patient.
    """
    fitting = [name for name, (fits, _) in LAYOUTS.items() if fits(folder.root)]
    if len(fitting) != 1:
        what = " and as ".join(fitting) if fitting else "none of the known layouts"
        raise DataError(
            f"{folder.root} is laid out as {what}: give one of trainA/ and trainB/; A/ and B/; "
            f"pictures side by side; {TABLE}; PATIENT/mr.nii.gz and ct.nii.gz (SynthRAD)"
        )
    (name,) = fitting
    return LAYOUTS[name][1](folder, modality, patient_pattern)


# One function per layout, which returns the pairs by split. Modality and pattern are for folders of
# volumes alone; a table says which file is the source, and who is the patient.


def _train_a(folder, *_):
    return _pictures(folder, "{}A", "{}B")


def _a_b(folder, *_):
    return _pictures(folder, "A/{}", "B/{}", "A", "B")


def _side_by_side(folder, *_):
    return _pictures(folder, "{}", "{}", ".", ".")


def _pictures(folder, source_place, ct_place, *without_splits):
    """Pairs from the folders of each split, or from the two folders `without_splits`."""
    places = {
        split: (source_place.format(split), ct_place.format(split))
        for split in SPLITS
        if any((folder.root / place.format(split)).is_dir() for place in (source_place, ct_place))
    }
    if places and "train" not in places:
        raise DataError(f"{folder.root} holds {', '.join(places)} and no train: add it")
    pairs = {}
    for split, (sources, cts) in (places or {"train": without_splits}).items():
        table = _stems(folder, sources)
        others = table if cts == sources else _stems(folder, cts)
        for stem in sorted(table.keys() ^ others.keys()):
            path = folder.root / (table | others)[stem]
            other = cts if stem in table else sources
            raise DataError(f"{path} has no partner in {other}/: add it or remove the file")
        if not table:
            raise DataError(f"{folder.root / sources} holds no pictures: add some")
        pairs[split] = [
            Pictures(Path(name).stem, name, others[stem]) for stem, name in table.items()
        ]
    return pairs


def _stems(folder, place):
    """{name without ending, whatever its case: name} of a folder's pictures."""
    if not (folder.root / place).is_dir():
        raise DataError(f"{folder.root / place} is not a folder: the layout needs it")
    table = {}
    for entry in folder.entries(folder.root / place):
        match = PICTURE.fullmatch(entry.name)
        if not match:
            raise DataError(
                f"{entry.path} is not called NAME.png, .jpg or .tif: convert or remove it"
            )
        name = folder.add(entry)
        stem = match["stem"].casefold()
        if stem in table:
            raise DataError(
                f"{entry.path} and {folder.root / table[stem]} have the same name: remove one"
            )
        table[stem] = name
    return table


def _from_table(folder, *_):
    path = folder.named(TABLE)
    folder.add(path)
    pairs = []
    rows = read_table(path, COLUMNS, "patient,source,ct or patient,source,ct,mask", ["mask"])
    for number, row in rows:
        fields = {key: row.get(key, "") for key in (*COLUMNS, "mask")}
        names = {}
        for column in ("source", "ct", "mask"):
            if fields[column]:
                file = folder.root / fields[column]
                if not _within(file, folder.root):
                    raise DataError(
                        f"{path} names {fields[column]} in line {number}, and there is no such "
                        f"file in {folder.root}: correct the path, which is relative to the table"
                    )
                names[column] = folder.add_volume(file)
        pairs.append(Volumes(fields["patient"], "", **{"mask": ""} | names))
    if not pairs:
        raise DataError(f"{path} lists no pairs: add some")
    return _one_a_patient(folder, pairs)


def _within(file, root):
    try:
        return file.resolve().is_relative_to(root) and file.is_file()
    except (OSError, RuntimeError, ValueError):  # the path is too long or invalid
        return False


def _by_folder(folder, modality, pattern):
    pairs = list(_patients(folder, folder.root, modality))
    if "/" in pattern:
        pairs = [_by_pattern(folder, pair, pattern) for pair in pairs]
    else:
        _check_no_studies(folder, pairs)
    return _one_a_patient(folder, pairs)


def _by_pattern(folder, pair, pattern):
    """The pair with the patient that the pattern finds in the source's path."""
    match = re.fullmatch(pattern, without_ending(pair.source))
    if not match or not match[1]:
        raise DataError(
            f"{folder.root / pair.source} names no patient by patient_pattern {pattern}: change "
            "the pattern, or move the file"
        )
    region = "" if pair.region == match[1] else pair.region
    return pair._replace(patient=match[1], region=region)


def _check_no_studies(folder, pairs):
    """Refuses folders that may be studies of patients, which splits would take for patients."""
    unknown = [pair for pair in pairs if not names_nobody(pair.region)]
    around = {Path(pair.ct).parent.parent for pair in unknown}
    for pair in unknown:
        if len(around) > 1 or DATE.fullmatch(pair.patient):
            raise DataError(
                f"{folder.root / pair.ct}: is {pair.region} a patient, whose study is "
                f"{pair.patient}, or is {pair.patient} the patient? Set config.data."
                f"patient_pattern='{OUTER}' for the first, '{INNER}' for the second"
            )


def _patients(folder, path, modality):
    """Yields the pairs of a folder and of the folders below it."""
    files = {}
    for entry in folder.entries(path):
        if entry.is_dir(follow_symlinks=False):  # a link's target is found in its own place
            yield from _patients(folder, entry.path, modality)
        elif match := VOLUME.fullmatch(entry.name):
            what = match["what"].lower()
            if what in files:
                raise DataError(f"{entry.path} and {files[what].path} are the same: remove one")
            files[what] = entry
    if not files.keys() & set(MODALITIES):
        return
    for what in dict.fromkeys((modality, "ct")):
        if what not in files:
            other = ", ".join(sorted(entry.name for entry in files.values()))
            hint = "" if what == "ct" else ", or set config.data.modality"
            raise DataError(
                f"{path} holds {other} and no {what}.nii.gz, .mha or the like: add it, or move the "
                f"folder away{hint}"
            )
    names = {
        what: folder.add_volume(files[what])
        for what in dict.fromkeys((modality, "ct", "mask"))
        if what in files
    }
    region = Path(names["ct"]).parent.parent.name
    yield Volumes(Path(path).name, region, names[modality], names["ct"], names.get("mask", ""))


def _one_a_patient(folder, pairs):
    """Refuses a second pair of a patient, whose slices would have the numbers of the first."""
    seen = {}
    for pair in pairs:
        other = seen.setdefault(pair.patient, pair)
        if other is not pair:
            raise DataError(
                f"{folder.root / pair.source} and {folder.root / other.source} are both of patient "
                f"{pair.patient}: keep one"
            )
    return {"train": pairs}


def _has(*names):
    return lambda root: all((root / name).is_dir() for name in names)


def _has_pictures(root):
    return any(
        PICTURE.fullmatch(entry.name) and entry.name[0] != "."
        for place in (root, *(root / split for split in SPLITS))
        if place.is_dir()
        for entry in os.scandir(place)
    )


def has_table(root):
    """Whether there is a table, whatever the case of its name."""
    return any(name.lower() == TABLE for name in os.listdir(root))


def _has_volumes(root):
    """Whether there are volumes and no table, which would take precedence."""
    return not has_table(root) and any(
        VOLUME.fullmatch(name) for *_, names in os.walk(root) for name in names
    )


LAYOUTS = {  # (whether a root has the layout, what lists such a SourceFolder)
    "trainA and trainB": (_has("trainA", "trainB"), _train_a),
    "A and B": (_has("A", "B"), _a_b),
    "pictures side by side": (_has_pictures, _side_by_side),
    TABLE: (has_table, _from_table),
    "folders of patients": (_has_volumes, _by_folder),
}
