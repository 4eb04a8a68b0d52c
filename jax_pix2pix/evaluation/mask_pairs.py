"""Pairs masks of any origin from two folders, each pair on one grid. No TensorFlow."""

import os
import re
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import folder_files, volume_file
from jax_pix2pix.imaging.folder_files import DICOM, PICTURE, VOLUME
from jax_pix2pix.imaging.geometry import NOTHING
from jax_pix2pix.imaging.safe_io import read_label_picture
from jax_pix2pix.safety.accounts import PASSED, USED, Account
from jax_pix2pix.safety.shown import check_name

VOLUMES, IMAGES = "volumes", "images"
_PREFIX = re.compile("^(prediction-|segmentation-|volume-)(?=.)", re.IGNORECASE)
_UNCERTAINTY = "_uncertainty"


class MaskPair(NamedTuple):
    case: str
    prediction: str  # paths
    reference: str


class Pairs(NamedTuple):
    kind: str  # VOLUMES or IMAGES
    pairs: list  # of MaskPair, sorted by case, numbers by their value
    accounts: tuple  # Account of each of the two folders


def find_pairs(predictions, references):
    """Pairs the masks of two folders by their names and places below them.

    Masks are volumes of any format that is read, folders of a DICOM series, or pictures. The
    relative paths of a pair are equal except for their case, the ending, and a prefix of the name,
    "prediction-", "segmentation-" or "volume-". Files named *_uncertainty are no masks.

    Returns:
        Pairs.

    Raises:
        DataError: a folder does not exist, or holds no masks or two of one case; the masks are of
            two kinds; one has no partner, or a name that could not be shown as it is.
    """
    kinds, found, accounts = {}, [], []
    for folder in (predictions, references):
        masks, account = {}, Account(folder)
        for case, kind, path in _masks(folder, account):
            key = case.casefold()
            if key in masks:
                raise DataError(f"{masks[key][1]} and {path} are both case {case}: remove one")
            masks[key] = case, path
            kinds.setdefault(kind, path)
        found.append(masks)
        accounts.append(account)
    if len(kinds) > 1:
        raise DataError(
            f"{kinds[VOLUMES]} is a volume and {kinds[IMAGES]} an image: compare one kind at a time"
        )
    predicted, present = found
    for mine, others, folder in (
        (present, predicted, predictions),
        (predicted, present, references),
    ):
        if alone := sorted(mine.keys() - others.keys(), key=_by_value):
            raise DataError(
                f"{mine[alone[0]][1]} has no partner in {folder} (so {len(alone)} in all): "
                "give them the same name, up to prediction-, segmentation- or volume-"
            )
    pairs = [
        MaskPair(present[key][0], predicted[key][1], present[key][1])
        for key in sorted(present, key=_by_value)
    ]
    (kind,) = kinds
    return Pairs(kind, pairs, tuple(accounts))


def read_pair(kind, pair, user=NOTHING):
    """Reads both masks of a pair.

    Args:
        user: imaging.geometry.Given, of volumes.

    Returns:
        (prediction, reference, spacing_mm): uint8 [d, h, w] and 3 floats for a volume, None where
        its spacing is unknown; or uint8 [h, w] and None for an image.

    Raises:
        DataError: a file cannot be read, or the two are not on one grid.
    """
    if kind == VOLUMES:
        prediction, reference = (_labels(path, user) for path in pair[1:])
        values = reference.geometry.reordered(pair.reference, prediction, pair.prediction)
        return values, reference.values, reference.spacing_mm
    prediction, reference = map(read_label_picture, pair[1:])
    if prediction.shape != reference.shape:
        sizes = [" x ".join(map(str, mask.shape[::-1])) for mask in (prediction, reference)]
        raise DataError(
            f"{pair.prediction} has {sizes[0]} pixels and {pair.reference} has {sizes[1]}: bring "
            "the prediction to the size of the reference"
        )
    return prediction, reference, None


def _labels(path, user):
    if not os.path.isdir(path):
        return volume_file.read_labels(path, user)
    from jax_pix2pix.imaging.formats import dicom  # imported late: SimpleITK is slow to import

    return dicom.read_labels(path)


def _masks(folder, account):
    """Yields (case, kind, path) of the masks below a folder, and enters its files."""
    try:
        entries = folder_files.listed(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): give a folder") from error
    found = {name: (name, VOLUMES) for name in folder_files.series_of(entries)}
    for entry in entries:
        why = entry.why
        if not why and entry.kind in (VOLUME, PICTURE):
            if entry.kind == VOLUME:
                stem, kind = volume_file.without_ending(entry.name), VOLUMES
            else:
                stem, kind = os.path.splitext(entry.name)[0], IMAGES
            if stem.lower().endswith(_UNCERTAINTY):
                why = "an uncertainty"
            else:
                found[entry.name] = stem, kind
        if entry.kind not in (VOLUME, PICTURE, DICOM) or why:
            account.add(entry.name, PASSED, why or f"a {entry.kind} and no mask")
    for name, (stem, kind) in sorted(found.items()):
        path = os.path.normpath(os.path.join(folder, name))
        check_name(path)
        account.add(name, USED)
        place, last = os.path.split(stem)
        yield os.path.join(place, _PREFIX.sub("", last)), kind, path
    if not found:
        raise DataError(
            f"{folder} holds no masks: {', '.join(volume_file.ENDINGS)}, folders of DICOM series, "
            "or pictures"
        )


def _by_value(name):
    """Makes a key that sorts case 9 before case 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
