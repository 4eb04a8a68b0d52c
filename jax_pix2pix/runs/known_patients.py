"""Whom a run has seen: the patients of its data by split, known by names and by pixels.

Preparation writes them into manifest.csv, and training copies that file into the workdir. With
pseudonyms it holds those, so that only pixels tell without the key. No JAX, no TensorFlow.
"""

import csv
import os
import re
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import pixel_prints
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.tables import csv_text, records

MANIFEST = "manifest.csv"
BEFORE = "manifest_init_from.csv"  # of a run that began with the weights of another: whom that saw
COLUMNS = ("split", "patient", "file_name", "examples", "pixels")
MAX_BYTES = 2**27  # some 400 bytes a volume, 200 a picture
MOST_COMPARED = 10**7  # pairs of prints, some ten seconds
SEEN = ("train", "validation")  # by which weights, or the choice of a checkpoint, were decided


class Known(NamedTuple):
    """A file of the data, as a row of the manifest names it."""

    split: str
    patient: str
    file_name: str  # relative to the source, with /
    pixels: str  # pixel_prints.pixel_print of its image; "": it shows nothing


class Sighting(NamedTuple):
    """A file of training or validation that is of the same patient."""

    known: Known
    by: str  # "pixels" or "name"

    def __str__(self):
        known = self.known
        return f"{known.file_name} of patient {known.patient} in {known.split}, by {self.by}"


def read_known(folder):
    """Reads the manifest of a workdir or of a prepared data set. -> list of Known.

    Of a run that began with the weights of another one, it has whom that one saw too.

    Raises:
        DataError: it is missing, damaged or too large.
    """
    before = os.path.join(folder, BEFORE)
    known = _read(os.path.join(folder, MANIFEST), folder)
    return known + (_read(before, folder) if os.path.lexists(before) else [])


def seen_table(folder):
    """Whom a run saw in training or validation, as the text of such a table.

    Raises:
        DataError: as `read_known`.
    """
    return csv_text(Known._fields, [one for one in read_known(folder) if one.split in SEEN])


def _read(path, folder):
    try:
        text = safe_files.read(path, MAX_BYTES, folder).decode()
        return [Known(*(row[name] for name in Known._fields)) for row in records(text)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__} {error}"
        raise DataError(
            f"{path} does not tell which patients were trained on ({reason}): prepare the data and "
            "train again, or restore it"
        ) from None


def sightings(known, path="", planes=None, shown=str):
    """Finds where a patient was seen in training or validation.

    A name matches if the file, or its folder, is called as a patient or as a patient and a number,
    or if it is the file of that name and folder. Pixels match if the prints nearly do: the same
    picture in another format, size or window.

    Args:
        known: from `read_known`.
        path: of the file in question, or the patient's name; "": unknown.
        planes: its image as `pixel_print` takes it, as preparation would store it; None: unknown.
        shown: (true name of a patient -> its name in the data); of data with pseudonyms
            `Pseudonyms.patient`, if the key is at hand.

    Returns:
        list of Sighting: first those by pixels, then of the other files those by name.
    """
    seen = [one for one in known if one.split in SEEN]
    found = {}
    if planes is not None and (pixels := pixel_prints.pixel_print(planes)):
        for one in seen:
            if pixel_prints.distance(pixels, one.pixels) < pixel_prints.SAME:
                found[one.file_name] = Sighting(one, "pixels")
    parts = [_plain(part) for part in re.split(r"[/\\]", os.fspath(path)) if part][-2:]
    names = {shown(name).casefold() for part in parts for name in _names(part)}
    tail = [part.casefold() for part in parts]
    for one in seen:
        own = [_plain(part).casefold() for part in one.file_name.split("/")][-2:]
        if one.patient.casefold() in names or own == tail[-len(own) :]:
            found.setdefault(one.file_name, Sighting(one, "name"))
    return list(found.values())


def scored_and_seen(known, scored):
    """Which of the patients that are scored were seen in training or validation.

    Args:
        known: of the run, from `read_known`.
        scored: rows of Known of the data that are scored.

    Returns:
        {patient: "name" or "pixels"} of those that were, sorted.
    """
    seen = [one for one in known if one.split in SEEN]
    names, prints = {one.patient for one in seen}, {one.pixels for one in seen}
    # Of large sets only equal prints are found: comparing each with each would take minutes.
    near = prints if len(seen) * len(scored) <= MOST_COMPARED else ()
    found = {}
    for one in scored:
        if one.patient in names:
            found[one.patient] = "name"
        elif one.pixels and (
            one.pixels in prints
            or any(pixel_prints.distance(one.pixels, x) < pixel_prints.SAME for x in near)
        ):
            found[one.patient] = "pixels"
    return dict(sorted(found.items()))


def _names(part):
    """The names of patients that a part of a path may hold: itself, and what is before numbers."""
    yield part
    while match := re.fullmatch(r"(.*\w)[_\- ]+\(?[A-Za-z]*\d*\)?", part):
        part = match[1].rstrip("_-")
        yield part


def _plain(part):
    """A part of a path without the endings of its format."""
    return re.sub(r"(\.[A-Za-z][A-Za-z0-9]{1,4}){1,2}$", "", part)
