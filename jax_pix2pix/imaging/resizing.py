"""Resizes planes bilinearly, antialiased where they shrink. No TensorFlow."""

import numpy as np
from PIL import Image


def bilinear(plane, shape):
    """Resizes [h, w] to float32 of the shape (h, w), whatever the aspect ratio."""
    image = Image.fromarray(np.asarray(plane, np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))


def evaluation_image(stored, size):
    """Resizes a stored image as `augment.resize` does in evaluation, up to ties of rounding.

    Args:
        stored: integers [S, S, c].

    Returns:
        Integers of the same type, [size, size, c], rounded once.
    """
    if len(stored) == size:
        return stored
    channels = [bilinear(stored[..., c], (size, size)) for c in range(stored.shape[-1])]
    return np.rint(np.stack(channels, -1)).astype(stored.dtype)
