"""From an MR's or a cone beam CT's values to the 16 bits that are stored. No TensorFlow.

Preparation and prediction both call these, so that a network sees alike what it was trained on.
"""

import numpy as np

from jax_pix2pix.imaging.planes import AIR_HU
from jax_pix2pix.errors import DataError

MAX = 65535  # of what is stored
STEPS_A_HU = 16  # of a cone beam CT: -1024 to 3071 HU in 16 bits


def stored_mr(values, mask, percentiles):
    """Scales an MR by percentiles of what its body mask holds: its unit is arbitrary.

    Args:
        values: numbers, the whole volume.
        mask: of the same shape, not 0 in the body.
        percentiles: (low, high) in [0, 100]: these become 0 and MAX, what lies beyond is clipped.

    Returns:
        uint16 of the same shape.

    Raises:
        DataError: the mask is empty, or the percentiles are equal; without the file's name.
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
    """Stores a cone beam CT in sixteenths of a HU above -1024, which is 0. -> uint16."""
    return _rounded((np.asarray(hu, np.float32) - AIR_HU) * STEPS_A_HU)


def stored_grey(grey):
    """Stores an 8-bit picture, white as MAX. uint8 -> uint16."""
    return grey * np.uint16(MAX // 255)


def grey_to_hu(grey, window_hu):
    """The CT of an 8-bit picture of which 0 and 255 are window_hu. uint8 -> int16, rounded."""
    low, high = window_hu
    return np.rint(low + grey * ((high - low) / 255)).astype(np.int16)


def hu_to_grey(hu, window_hu):
    """The way back, of any HU: uint8, rounded; what lies beyond the window is 0 or 255."""
    low, high = window_hu
    return np.rint(np.clip((hu - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def _rounded(values):
    """float32, which it overwrites, to uint16."""
    np.clip(values, 0, MAX, out=values)
    return np.rint(values, out=values).astype(np.uint16)
