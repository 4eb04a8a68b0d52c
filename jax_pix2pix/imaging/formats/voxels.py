"""Checks the voxels of a file: their bytes and their values."""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.volume import Volume

MAX_BYTES = 2**31  # limits the voxels as they are stored
DEFLATE_RATIO = 1032  # the highest compression of gzip and zlib


def check_bytes(path, claimed):
    """Raises DataError if a header claims more than MAX_BYTES of voxels."""
    if claimed > MAX_BYTES:
        raise DataError(
            f"{path} claims {claimed} bytes of voxels, above the limit of {MAX_BYTES}: crop it, or "
            "save it as int16"
        )


def to_volume(path, geometry, voxels, dtype, convert):
    """Converts voxels slice by slice, so that only one slice at a time is in float64.

    Args:
        voxels: numbers in the file's axes and shape.
        convert: (path, slice [rows, columns]) -> values that fit into dtype; raises DataError.

    Returns:
        Volume of dtype.
    """
    values = np.empty(geometry.shape, dtype)
    for i, picture in enumerate(geometry.to_pictures(voxels)):
        values[i] = convert(path, picture)
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
    with np.errstate(over="ignore"):
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
