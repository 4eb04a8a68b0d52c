"""Draws planes of sampled volumes as a radiologist sees them, in their true proportions."""

import numpy as np

from jax_pix2pix.imaging.pictures import grid
from jax_pix2pix.imaging.planes import PLANES, cut
from jax_pix2pix.imaging.resizing import bilinear
from jax_pix2pix.inference.prediction import LUNG_HU
from jax_pix2pix.intensity import to_network

SIDE = 256
ROW = 6  # slices in a row


def three_planes(hu, spacing_mm):
    """Draws the axial, coronal and sagittal planes through the centre of a volume.

    Args:
        hu: int16 [slices, rows, columns].
        spacing_mm: between them.

    Returns:
        {name of a plane: float32 [SIDE, SIDE] in [-1, 1], which is LUNG_HU}. All show the same
        millimetres around the centre of the volume, and black beyond it.
    """
    longest = max(np.multiply(hu.shape, spacing_mm))
    tiles = {}
    for plane, (_, down, across) in PLANES.items():
        slices = cut(hu, plane)
        tiles[plane] = _tile(
            slices[len(slices) // 2], (spacing_mm[down], spacing_mm[across]), longest
        )
    return tiles


def axial_slices(hu, spacing_mm):
    """Draws every axial slice as `three_planes` does: a list of float32 [SIDE, SIDE]."""
    longest = max(np.multiply(hu.shape, spacing_mm)[1:])
    return [_tile(plane, spacing_mm[1:], longest) for plane in hu]


def picture_of_planes(tiles, names):
    """Draws a row of `three_planes` for each volume. -> PIL image."""
    low, high = LUNG_HU
    labels = [f"{name}: {low} to {high} HU" for name in names]
    return grid([list(planes.values()) for planes in tiles], list(tiles[0]), labels, SIDE)


def picture_of_slices(tiles, name):
    """Draws rows of the `axial_slices` of one volume, from the feet. -> PIL image."""
    low, high = LUNG_HU
    starts = range(0, len(tiles), ROW)
    labels = [f"{name}, slices from {start}: {low} to {high} HU" for start in starts]
    columns = [""] * min(ROW, len(tiles))
    return grid([tiles[start : start + ROW] for start in starts], columns, labels, SIDE // 2)


def _tile(plane, pixel_mm, longest_mm):
    """Centres a plane on a black square of longest_mm a side."""
    shape = np.multiply(plane.shape, pixel_mm) / longest_mm * SIDE
    shape = tuple(int(side) for side in np.maximum(np.rint(shape), 1))
    grey = np.asarray(to_network(bilinear(plane, shape), LUNG_HU))
    top, left = ((SIDE - side) // 2 for side in shape)
    square = np.full((SIDE, SIDE), -1, np.float32)
    square[top : top + shape[0], left : left + shape[1]] = grey
    return square
