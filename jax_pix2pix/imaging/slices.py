"""Converts a slice as it was read to its stored form. No TensorFlow."""

import numpy as np
from PIL import Image

from jax_pix2pix.errors import DataError


def stored_mask(mask, path, mask_values, size, mask_resize):
    """Converts a mask to the form that preparation stores and the generator reads.

    Args:
        mask: uint8 [h, w], values in mask_values.
        path, mask_values: as for `class_indices`.
        size, mask_resize: as for `resize`.

    Returns:
        uint8 [size, size, 1]: 254 * class / (classes - 1), evenly spaced, so that
        x / 127 - 1 is exactly -1, 0 and 1 with three classes. Bilinear resizing blends them.

    Raises:
        DataError: a value is not among mask_values.
    """
    classes = len(mask_values)
    grey = np.rint(254 * np.arange(classes) / (classes - 1)).astype(np.uint8)
    return resize(grey[class_indices(mask, mask_values, path)], size, mask_resize)[..., None]


def class_indices(mask, mask_values, path):
    """Turns the grey values of a mask on disk into class indices.

    Args:
        mask: uint8 [h, w].
        mask_values: distinct integers in [0, 255]; the k-th is class k.
        path: where the mask comes from, for the error.

    Returns:
        uint8 [h, w], values in [0, len(mask_values)).

    Raises:
        DataError: a value is not among mask_values.
    """
    table = np.full(256, -1, np.int16)
    table[list(mask_values)] = np.arange(len(mask_values))
    classes = table[mask]
    if (classes < 0).any():
        raise DataError(
            f"{path} holds the value {mask[classes < 0][0]}, which is not among mask_values "
            f"{','.join(map(str, mask_values))}: set config.data.mask_values, or correct the mask"
        )
    return classes.astype(np.uint8)


def resize(image, size, method):
    """Resizes uint8 [h, w] or [h, w, 3] to height and width `size`, whatever its aspect ratio.

    Args:
        method: "nearest", or "bilinear", which is antialiased: its window grows with the factor by
            which the image shrinks.
    """
    method = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[method]
    return np.asarray(Image.fromarray(image).resize((size, size), method))
