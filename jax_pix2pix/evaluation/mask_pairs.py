"""Pairs masks of any origin from two folders, each pair on one grid. No TensorFlow."""

import os
import re
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.geometry import NOTHING
from jax_pix2pix.imaging.safe_io import read_grey_png
from jax_pix2pix.imaging.volume_file import read_labels
from jax_pix2pix.safety.shown import check_name

VOLUMES, IMAGES = "NIfTI volumes", "PNG images"
_NAME = re.compile(
    r"(prediction-|segmentation-|volume-)?(?P<case>[^.].*?(?<!_uncertainty))(\.png|(?P<nifti>\.nii(\.gz)?))",
    re.IGNORECASE,
)


class MaskPair(NamedTuple):
    case: str
    prediction: str  # paths
    reference: str


def find_pairs(predictions, references):
    """Pairs the masks of two folders by their names.

    Files are .nii, .nii.gz or .png. The names of a pair are equal except for the ending and for a
    prefix "prediction-", "segmentation-" or "volume-". Files named *_uncertainty are not masks and
    are skipped.

    Returns:
        (kind, pairs): VOLUMES or IMAGES, and [MaskPair] sorted by case, numbers by their value.

    Raises:
        DataError: a folder does not exist, or holds no masks or two of one case; the masks are of
            two kinds; one has no partner, or a name that could not be shown as it is.
    """
    kinds, found = set(), []
    for folder in (predictions, references):
        masks = {}
        for name, match in _names(folder):
            case, path = match["case"], os.path.join(folder, name)
            if case in masks:
                raise DataError(f"{masks[case]} and {path} are both case {case}: remove one")
            masks[case] = path
            kinds.add(VOLUMES if match["nifti"] else IMAGES)
        found.append(masks)
    if len(kinds) > 1:
        raise DataError(
            f"{predictions} and {references} hold NIfTI volumes and PNG images: compare one kind "
            "at a time"
        )
    predicted, present = found
    for mine, others, folder in (
        (present, predicted, predictions),
        (predicted, present, references),
    ):
        if alone := sorted(mine.keys() - others.keys(), key=_by_value):
            raise DataError(
                f"{mine[alone[0]]} has no partner in {folder} (so {len(alone)} in all): "
                "give them the same name, up to prediction-, segmentation- or volume-"
            )
    cases = sorted(present, key=_by_value)
    return kinds.pop(), [MaskPair(case, predicted[case], present[case]) for case in cases]


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
        prediction, reference = (
            read_labels(pair.prediction, user),
            read_labels(pair.reference, user),
        )
        values = reference.geometry.reordered(pair.reference, prediction, pair.prediction)
        return values, reference.values, reference.spacing_mm
    prediction, reference = read_grey_png(pair.prediction), read_grey_png(pair.reference)
    if prediction.shape != reference.shape:
        sizes = [" x ".join(map(str, mask.shape[::-1])) for mask in (prediction, reference)]
        raise DataError(
            f"{pair.prediction} has {sizes[0]} pixels and {pair.reference} has {sizes[1]}: bring "
            "the prediction to the size of the reference"
        )
    return prediction, reference, None


def _names(folder):
    """Lists the masks in a folder, as [(file name, match)]."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): give a folder") from error
    found = [(name, match) for name in names if (match := _NAME.fullmatch(name))]
    for name, _ in found:
        check_name(os.path.join(folder, name))
    if not found:
        raise DataError(f"{folder} holds no .nii, .nii.gz or .png masks")
    return found


def _by_value(name):
    """Makes a key that sorts case 9 before case 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
