"""Converts an MR's or a cone beam CT's values to the 16 bits that are stored. No TensorFlow.

Preparation and prediction both call these functions, so that a network sees the same values in
both.
"""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.planes import AIR_HU

MAX = 65535  # the largest stored value
STEPS_A_HU = 16  # in a cone beam CT: 16 bits hold -1024 to 3071 HU


def stored_mr(values, mask, percentiles):
    """Scales an MR, whose unit is arbitrary, by percentiles of the values in its body mask.

    Args:
        values: numbers, the whole volume.
        mask: of the same shape, not 0 in the body.
        percentiles: (low, high) in [0, 100]: they become 0 and MAX; values beyond are clipped.

    Returns:
        uint16 of the same shape.

    Raises:
        DataError: the mask is empty, or the percentiles are equal. The text names no file.
    """
    inside = values[mask > 0]
    if not inside.size:
        raise DataError("there is nothing in the body mask: correct the mask or the image")
    low, high = np.percentile(inside, percentiles)
    if low == high:
        raise DataError(
            f"percentiles {percentiles[0]:g} and {percentiles[1]:g} of the values in the body mask "
            f"are both {low:g}: correct the image, or set config.data.mr_percentiles"
        )
    stored = np.subtract(values, low, dtype=np.float32)
    stored *= np.float32(MAX / (high - low))
    return _rounded(stored)


def stored_cbct(hu):
    """Stores a cone beam CT in sixteenths of a HU; 0 is -1024 HU. -> uint16."""
    return _rounded((np.asarray(hu, np.float32) - AIR_HU) * STEPS_A_HU)


def source_hu(stored):
    """Inverts `stored_cbct`, to whole HU. -> float."""
    return np.rint(np.asarray(stored) / STEPS_A_HU + AIR_HU)


def stored_grey(grey):
    """Scales an 8-bit picture so that white is MAX. uint8 -> uint16."""
    return grey * np.uint16(MAX // 255)


def grey_to_hu(grey, window_hu):
    """Maps an 8-bit picture's 0 and 255 to the ends of window_hu. uint8 -> int16, rounded."""
    low, high = window_hu
    return np.rint(low + grey * ((high - low) / 255)).astype(np.int16)


def hu_to_grey(hu, window_hu):
    """Inverts `grey_to_hu` for any HU: uint8, rounded; values beyond the window are 0 or 255."""
    low, high = window_hu
    return np.rint(np.clip((hu - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def _rounded(values):
    """Clips and rounds float32 to uint16; overwrites its argument."""
    np.clip(values, 0, MAX, out=values)
    return np.rint(values, out=values).astype(np.uint16)
