"""Decides whether numbers are Hounsfield units, and what lies outside a scanner's field of view.

All that reads a CT comes here, and so do scores. A body tells its unit: soft tissue is near 0 HU,
and what is darker than fat is air or lung. Values that are certainly scaled or shifted are refused;
those that could be either pass with a warning.
"""

from typing import NamedTuple

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import warn_once

AIR_HU = -1024  # the lowest value of a CT; lower ones fill what no ray has crossed
OFFSET_HU = 1024  # scanners store HU + 1024
DARK_HU = -150  # fat is brighter, lung and air are darker
SOFT_HU = (-150, 200)  # fat to organs with contrast medium
SHIFTED_HU = (850, 1224)  # soft tissue, and the fat around it, in HU + 1000 or + 1024
BETWEEN_HU = (400, 774)  # below that peak: empty in HU + 1024, full wherever there is true bone
NARROW = 20  # a body's HU span more; values scaled to [0, 1] or to a deviation of 1 do not
BRIGHT_GREY = 90  # of 8 bits: a body of HU without air, as a stripped brain, has a lower median
BRIGHT_HU = 600  # a body without air, of a higher median, is no CT; a heart with contrast is 450
SAMPLED = 2**21  # voxels that are looked at
OUTLIERS = (0.1, 99.9)  # percentiles: a few voxels decide nothing
FEW = 1e-3  # a share that outliers may have
WRAPPED = 61440  # unsigned: 65536 less 4096; nothing of a CT is as bright


class _Seen(NamedTuple):
    """What a sample of the values shows.

    every: above AIR_HU, sorted.
    tissue: the same without the one value of a background.
    below: share of voxels far below AIR_HU, but above the values of padding.
    """

    every: np.ndarray
    tissue: np.ndarray
    below: float


def as_hu(values, name):
    """Checks and rounds the values of a CT; what is below AIR_HU becomes AIR_HU.

    Args:
        values: numbers of any type and shape. int16 is changed in place.
        name: of the file, for messages.

    Returns:
        int16 of the same shape.

    Raises:
        DataError: as `rounded` and `check_hu`.
    """
    hu = values if values.dtype == np.int16 else rounded(name, values).astype(np.int16)
    check_hu(hu, name)
    return np.maximum(hu, AIR_HU, out=hu)


def rounded(name, values):
    """Rounds to what int16 holds. Padding that was stored as unsigned becomes negative again.

    Raises:
        DataError: a value is not a number, or int16 cannot hold it.
    """
    if not np.isfinite(values).all():
        raise DataError(f"{name} holds voxels that are not numbers: correct them")
    values = np.rint(values)
    if values.max() >= WRAPPED:  # 63536 is -2000
        values = np.where(values >= WRAPPED, values.astype(np.float64) - 65536, values)
    if values.min() < -32768 or values.max() > 32767:
        raise DataError(
            f"{name} holds values from {values.min():g} to {values.max():g}, which is not a CT's: "
            "save it as int16, in Hounsfield units"
        )
    return values


def check_hu(values, name):
    """Refuses values that are certainly no HU, and warns of those that may be none.

    Args:
        values: finite numbers of any type and shape.
        name: of the file, for messages.

    Raises:
        DataError: there is a single value; or they look scaled, shifted, or not like a CT. The
            message has the guess, and what to do.
    """
    seen = _look(values)
    guess = _guess(seen)
    if guess:
        raise DataError(
            f"{name} holds values of {_text(values.min())} to {_text(values.max())}"
            f"{_half(seen.tissue)}, which are no HU (air is -1000, water 0): {guess}"
        )
    for what, (low, high) in {"air or lung": (-np.inf, DARK_HU), "soft tissue": SOFT_HU}.items():
        if _share(seen.tissue, low, high) <= FEW:
            warn_once(
                f"a CT without {what}",
                f"{name} shows no {what} that would confirm its HU (values of "
                f"{_text(values.min())} to {_text(values.max())}{_half(seen.tissue)}): it is taken "
                "as it is, as cropped or masked; so are others like it, without another warning",
            )


def check_grey(pixels, name):
    """Refuses an 8-bit picture that was scaled to [0, 1] before it was saved, and so is black."""
    if pixels.max() == 1:
        raise DataError(
            f"{name} holds no values but 0 and 1, and white is 255: it looks scaled to [0, 1] "
            "before it was saved, so save it in 0 to 255"
        )


def _look(values):
    flat = np.reshape(values, -1)
    sample = flat[:: max(1, flat.size // SAMPLED) | 1]
    below = _share(sample, -1950, -1250)  # HU - 1024 of lung, and where air meets the skin
    every = np.sort(sample[sample > AIR_HU])
    if not every.size:
        return _Seen(every, every, below)
    found, counts = np.unique(every, return_counts=True)
    most = found[counts.argmax()]
    # A background is zero, air, or the lowest value of a window.
    plain = counts.max() >= 0.02 * sample.size and (most in (0, found[0]) or most <= -900)
    return _Seen(every, every[every != most] if plain else every, below)


def _guess(seen):
    """What the values look like and what to do, in words; None for HU and for what may be HU."""
    every, tissue = seen.every, seen.tissue
    if not every.size or every[0] == every[-1]:
        return "there is a single value and no body: correct or remove it"
    if scale := _scale(every, tissue):
        return (
            f"they look like values scaled to {scale}: scale them back by the window that was used"
        )
    grey = every[0] >= 0 and every[-1] <= 255 and tissue.size
    if grey and (every[-1] == 255 or np.median(tissue) > BRIGHT_GREY):
        return "they look like values scaled to 0..255: scale them back by the window that was used"
    shifted = _share(tissue, *SHIFTED_HU)
    dark = _share(tissue, AIR_HU, DARK_HU)
    if dark < 0.02 and shifted > 0.02 and shifted >= 3 * _share(tissue, *BETWEEN_HU):
        return (
            f"they look like HU + {OFFSET_HU}: subtract {OFFSET_HU}, or set the file's intercept "
            f"to -{OFFSET_HU}"
        )
    if seen.below > 0.02 and _share(tissue, *SOFT_HU) < 0.05:
        return f"they look like HU - {OFFSET_HU}, shifted twice: add {OFFSET_HU}"
    if _share(every, AIR_HU, DARK_HU) <= FEW and tissue.size and np.median(tissue) > BRIGHT_HU:
        return "there is neither air nor soft tissue, as in an MR: give the CT, in HU"
    return None


def _scale(every, tissue):
    """The interval that a body was scaled to, in words, or None."""
    low, high = np.percentile(tissue if tissue.size and np.ptp(tissue) else every, OUTLIERS)
    if low <= -NARROW or high >= NARROW or high - low >= NARROW:
        return None
    if high > 1.25:
        return "a mean of 0 and a deviation of 1, or the like"
    low = np.percentile(every[every > -NARROW], OUTLIERS[0])  # a background may be filled with air
    return "[0, 1]" if low > -0.25 else "[-1, 1]"


def _share(values, low, high):
    """The share of values above low and below high."""
    return float(((values > low) & (values < high)).mean()) if values.size else 0.0


def _half(tissue):
    return f", half of the body above {_text(np.median(tissue))}" if tissue.size else ""


def _text(number):
    return f"{float(number):.4g}"
