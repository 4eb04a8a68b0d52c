"""From a slice of a volume to the square that is stored, and predictions back. No TensorFlow.

A plane that is not square is padded to one, centred, so that nothing is stretched; then the square
is resized. Pixel centres keep their places in both directions.
"""

import numpy as np
from PIL import Image

from jax_pix2pix.imaging.resizing import bilinear

# Of a volume [slices, rows, columns] from the feet, the front and the right: which of its axes go
# from slice to slice, down the rows and along the columns.
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
AIR_HU = -1024  # what lies beyond a plane of a CT
BACKGROUND = 0


def cut(volume, plane):
    """A view of an axial volume as slices of a plane of PLANES, head up: [slices, rows, columns].

    Coronal slices go from front to back, sagittal ones from the patient's right to left with the
    front at the left.
    """
    slices = volume.transpose(PLANES[plane])
    return slices if plane == "axial" else slices[:, ::-1]


def put_together(slices, plane):
    """The way back: a view of a plane's slices as an axial volume."""
    slices = slices if plane == "axial" else slices[:, ::-1]
    return slices.transpose(np.argsort(PLANES[plane]))


def stored_image(plane, size, beyond=AIR_HU):
    """Pads and resizes a plane, antialiased where it shrinks.

    Args:
        plane: integers [h, w] of at most 16 bits: HU of a CT, for instance.
        beyond: the value of the padding.

    Returns:
        Integers of the same type, [size, size], rounded once, at the end.
    """
    return np.rint(bilinear(_padded(plane, beyond), (size, size))).astype(plane.dtype)


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
