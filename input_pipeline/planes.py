"""From a slice of a volume to the square that is stored, and predictions back. No TensorFlow.

A plane that is not square is padded to one, centred, so that nothing is stretched; then the square
is resized. Pixel centres keep their places in both directions.
"""

import numpy as np
from PIL import Image

from input_pipeline.resizing import bilinear

AIR_HU = -1024  # what lies beyond a plane
BACKGROUND = 0


def stored_image(hu, size):
    """Pads and resizes a CT plane, antialiased where it shrinks.

    Args:
        hu: int16 [h, w].

    Returns:
        int16 [size, size], rounded once, at the end.
    """
    return np.rint(bilinear(_padded(hu, AIR_HU), (size, size))).astype(np.int16)


def stored_labels(labels, size):
    """Pads and resizes a label plane to nearest: labels stay labels. uint8 [h, w] -> [size, size].

    The label of the pixel that holds the centre of the new one.
    """
    square = Image.fromarray(_padded(labels, BACKGROUND))
    return np.asarray(square.resize((size, size), Image.Resampling.NEAREST))


def native(prediction, shape):
    """The way back: resizes a prediction bilinearly to the padded plane and crops the padding.

    Args:
        prediction: float [size, size], a probability for instance.
        shape: (h, w) of the plane.

    Returns:
        float32 [h, w].
    """
    top, left, side = _padding(shape)
    square = bilinear(prediction, (side, side))
    return square[top : top + shape[0], left : left + shape[1]]


def stored_spacing_mm(spacing_mm, shape, size):
    """Millimetres between slices, rows and columns once planes of this shape are stored.

    Args:
        spacing_mm: of the planes.
        shape: (h, w) of the planes.
    """
    *_, side = _padding(shape)
    between, rows, columns = spacing_mm
    return between, rows * side / size, columns * side / size


def _padding(shape):
    """Rows above a plane, columns to the left of it, and the side of the padded square."""
    side = max(shape)
    return (side - shape[0]) // 2, (side - shape[1]) // 2, side


def _padded(plane, value):
    top, left, side = _padding(plane.shape)
    square = np.full((side, side), value, plane.dtype)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return square
