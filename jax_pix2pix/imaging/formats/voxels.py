"""Checks the voxels of a file: their bytes and their values."""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.memory import check_memory
from jax_pix2pix.imaging.volume import Volume

# Beside the voxels as they are stored: the values, and two copies while a body mask is found, a
# volume is resampled or its intensity scaled.
WORKING = (np.float32, np.float32, np.float32)
BLOCK = 2**22  # voxels that are in float64 at one time


def check_shape(path, shape, dtype):
    """Raises DataError if a header's shape is not a volume's, or is too large to be read.

    Args:
        shape: integers.
        dtype: of the voxels as they are stored.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{path} has the shape {shape}: save it with three dimensions")
    check_memory(path, shape, dtype, *WORKING)


def to_volume(path, geometry, voxels, dtype, convert):
    """Converts voxels in blocks, so that few are in float64 at one time.

    Args:
        voxels: numbers in the file's axes and shape.
        convert: (path, rows of a slice [n, columns]) -> values that fit into dtype; raises
            DataError.

    Returns:
        Volume of dtype.
    """
    values = np.empty(geometry.shape, dtype)
    rows = max(1, BLOCK // geometry.shape[2])
    with np.errstate(over="ignore", invalid="ignore"):  # `convert` looks for them
        for i, picture in enumerate(geometry.to_pictures(voxels)):
            for top in range(0, len(picture), rows):
                values[i, top : top + rows] = convert(path, picture[top : top + rows])
    return Volume(values, geometry)


def to_hu(path, plane):
    """Rounds a slice of a CT; raises DataError for values that int16 cannot hold."""
    _check_finite(path, plane)
    plane = np.rint(plane)
    if plane.min() < -32768 or plane.max() > 32767:
        raise DataError(
            f"{path} holds values from {plane.min():g} to {plane.max():g} in a slice, which is not "
            "a CT's: save it as int16, in Hounsfield units"
        )
    return plane


def to_intensity(path, plane):
    """Converts a slice of an MR to float32; raises DataError for values it cannot hold."""
    plane = plane.astype(np.float32)
    _check_finite(path, plane)
    return plane


def to_labels(path, plane):
    """Checks that a slice of a label volume holds only integers in [0, 255]."""
    if not (plane == np.rint(plane)).all() or plane.min() < 0 or plane.max() > 255:
        raise DataError(
            f"{path} holds other values than integers in [0, 255]: save the labels as uint8"
        )
    return plane


def _check_finite(path, plane):
    if not np.isfinite(plane).all():
        raise DataError(f"{path} holds voxels that are not numbers: correct them")
