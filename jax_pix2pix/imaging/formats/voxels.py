"""Checks the voxels of a file: their bytes and their values."""

import os

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.memory import check_memory
from jax_pix2pix.imaging.volume import Volume
from jax_pix2pix.safety import safe_files

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


def to_intensity(path, plane):
    """Converts a slice of an MR to float32, NaN included; raises DataError for infinite values."""
    with np.errstate(over="ignore"):
        plane = plane.astype(np.float32)
    if np.isinf(plane).any():
        raise DataError(f"{path} holds voxels that are infinite or too large: correct them")
    return plane


def writing(path):
    """`safe_files.writing` that replaces a link of the user's own too, as its name may mislead."""
    return safe_files.writing(path, os.path.dirname(os.fspath(path)) or os.curdir)
