"""Tells what the values of a mask mean: class numbers, 0 and 255, or soft edges between them."""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import warn_once

ROUNDING = 1e-3  # a header's slope is float32, and 255 of its steps of 1/255 are not quite 1
WHITE = 255
SOFT_WHITE = 240  # the edges of a mask drawn in 0 and 255 may lower white to that
MOST_CLASSES = 4  # in levels of grey: edges have more
DARK = 32  # beside white, an edge has a level above
THRESHOLD = 127  # of soft edges: values above are foreground
LISTED = 8  # values in a message


class FractionError(DataError):
    """A mask holds fractions, which may be integers divided by 255."""


def whole(name, values):
    """Rounds a mask's numbers to the integers that they nearly are.

    Args:
        name: of the file, for messages.
        values: numbers of any type and shape.

    Returns:
        uint8 of the same shape.

    Raises:
        FractionError: a value is not within ROUNDING of an integer, or no number.
        DataError: a value is outside of [0, 255].
    """
    wrong = f"{name} holds other values than integers in [0, {WHITE}]: save the labels as uint8"
    if values.dtype.kind == "f":
        integers = np.rint(values)
        with np.errstate(invalid="ignore"):  # inf - inf
            if not (np.abs(values - integers) <= ROUNDING).all():
                raise FractionError(wrong)
        values = integers
    if values.min() < 0 or values.max() > WHITE:
        raise DataError(wrong)
    return values.astype(np.uint8)


def whole_of_255(name, values):
    """Rounds 255 times a mask's numbers; as `whole`, after which it is tried."""
    with np.errstate(over="ignore"):
        return whole(name, values * np.float64(WHITE))


def labels_of(name, values):
    """Rounds an array that is there as a whole: `whole`, or else `whole_of_255`."""
    try:
        return whole(name, values)
    except FractionError:
        return whole_of_255(name, values)


def foreground(labels, name, soft_edges=False):
    """Finds the foreground of a mask of two classes.

    Class numbers (0, 1, 2, ...) are foreground above 0, and so is the other value of a mask that
    has 0 and one more, such as 255.

    Args:
        labels: uint8 of any shape.
        name: of the file, for messages.
        soft_edges: whether values between 0 and 255, of an image that was resized or drawn with
            soft edges, are cut at THRESHOLD; a warning tells it.

    Returns:
        bool of the same shape.

    Raises:
        DataError: the values are neither; the message lists them.
    """
    found = np.unique(labels)
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return labels > 0
    if found[0] == 0 and found[-1] <= THRESHOLD:
        return labels > 0
    if soft_edges and _has_soft_edges(found):
        warn_once(
            "soft edges",
            f"{name} holds {len(found)} values from {found[0]} to {found[-1]}: those above "
            f"{THRESHOLD} are the mask, as its edges are soft; so in others like it, without "
            "another warning",
        )
        return labels > THRESHOLD
    raise DataError(
        f"{name} holds the values {listed(found)}, and a mask of two classes has 0 and one more: "
        f"save it as 0 and {WHITE}, or name its classes"
    )


def _has_soft_edges(found):
    """Whether these values are of black and white with edges between, and no classes.

    Four levels of grey may be four classes, and 255 beside small numbers is a label to ignore.
    """
    black_and_white = found[0] <= WHITE - SOFT_WHITE and found[-1] >= SOFT_WHITE
    return black_and_white and len(found) > MOST_CLASSES and found[-2] > DARK


def numbered(labels, name, regions, soft_edges=False):
    """Brings a mask to the labels of regions.

    Args:
        labels, name, soft_edges: as for `foreground`.
        regions: {name: labels that belong to it}.

    Returns:
        uint8: where there is one region, a mask in 0 and 255 has the region's first label as its
        foreground; all others are as they were.

    Raises:
        DataError: a value is in no region; the message lists the mask's values.
    """
    found = np.unique(labels)
    known = {0, *(label for members in regions.values() for label in members)}
    if set(found.tolist()) <= known:
        return labels
    if len(regions) == 1 and found[-1] >= SOFT_WHITE:
        ((first, *_),) = regions.values()
        return np.where(foreground(labels, name, soft_edges), np.uint8(first), np.uint8(0))
    raise DataError(
        f"{name} holds the values {listed(found)}, and the regions are "
        f"{', '.join(f'{region} {list(members)}' for region, members in regions.items())}: "
        "correct the mask, or the regions"
    )


def listed(found):
    """Lists the first LISTED distinct values of a mask."""
    more = ", ..." if len(found) > LISTED else ""
    return ", ".join(map(str, np.asarray(found)[:LISTED].tolist())) + more
