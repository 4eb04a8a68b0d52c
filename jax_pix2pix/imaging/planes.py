"""Converts slices of a volume to the squares that are stored, and back. No TensorFlow.

A plane is centred in a padded square, so that nothing is stretched; then the square is resized.
Pixel centres keep their places in both directions.
"""

import numpy as np
from PIL import Image

from jax_pix2pix.imaging.hounsfield import AIR_HU
from jax_pix2pix.imaging.resizing import bilinear

# A volume's axes [slices, rows, columns] start at feet, front and right. Here are those that become
# the slices, rows and columns of each plane.
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
BACKGROUND = 0


def cut(volume, plane):
    """Views an axial volume as slices of a plane of PLANES, head up: [slices, rows, columns].

    Coronal slices go from front to back, sagittal ones from the patient's right to left with the
    front at the left.
    """
    slices = volume.transpose(PLANES[plane])
    return slices if plane == "axial" else slices[:, ::-1]


def to_axial(slices, plane):
    """Inverts `cut`: views a plane's slices as an axial volume."""
    slices = slices if plane == "axial" else slices[:, ::-1]
    return slices.transpose(np.argsort(PLANES[plane]))


def stored_image(plane, size, beyond=AIR_HU):
    """Pads and resizes a plane, antialiased where it shrinks.

    Args:
        plane: integers [h, w] of at most 16 bits, such as the HU of a CT.
        beyond: the value of the padding.

    Returns:
        Integers of the same type, [size, size], rounded once, at the end.
    """
    return np.rint(bilinear(_padded(plane, beyond), (size, size))).astype(plane.dtype)


def stored_labels(labels, size):
    """Pads and resizes a label plane to nearest: labels stay labels. uint8 [h, w] -> [size, size].

    A new pixel takes the label of the pixel that holds its centre.
    """
    square = Image.fromarray(_padded(labels, BACKGROUND))
    return np.asarray(square.resize((size, size), Image.Resampling.NEAREST))


def native(prediction, shape):
    """Inverts storing: resizes a prediction bilinearly to the padded plane and crops the padding.

    Args:
        prediction: float [size, size], such as a probability.
        shape: (h, w) of the plane.

    Returns:
        float32 [h, w].
    """
    top, left, side = _padding(shape)
    square = bilinear(prediction, (side, side))
    return square[top : top + shape[0], left : left + shape[1]]


def stored_spacing_mm(spacing_mm, shape, size):
    """Computes the mm between slices, rows and columns once planes of this shape are stored.

    Args:
        spacing_mm: of the planes; None where it is unknown, which is stored as 0.
        shape: (h, w) of the planes.
    """
    if spacing_mm is None:
        return 0.0, 0.0, 0.0
    *_, side = _padding(shape)
    between, rows, columns = spacing_mm
    return between, rows * side / size, columns * side / size


def _padding(shape):
    """Computes the rows above a plane, the columns left of it, and the padded square's side."""
    side = max(shape)
    return (side - shape[0]) // 2, (side - shape[1]) // 2, side


def _padded(plane, value):
    top, left, side = _padding(plane.shape)
    square = np.full((side, side), value, plane.dtype)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return square
