"""What the voxels of a file may be: how many bytes, and which values."""

import numpy as np

from jax_pix2pix.imaging.volume import Volume
from jax_pix2pix.errors import DataError

MAX_BYTES = 2**31  # of the voxels as they are stored
DEFLATE_RATIO = 1032  # gzip and zlib compress nothing better than this


def check_bytes(path, claimed):
    """Raises DataError where a header claims more voxels than are read."""
    if claimed > MAX_BYTES:
        raise DataError(
            f"{path} claims {claimed} bytes of voxels, above the limit of {MAX_BYTES}: crop it, or "
            "save it as int16"
        )


def to_volume(path, geometry, voxels, dtype, convert):
    """Converts voxels slice by slice, so that one slice alone is in float64.

    Args:
        voxels: numbers in the file's axes and shape.
        convert: (path, slice [rows, columns]) -> what fits into dtype; raises DataError.

    Returns:
        Volume of dtype.
    """
    values = np.empty(geometry.shape, dtype)
    for i, picture in enumerate(geometry.to_pictures(voxels)):
        values[i] = convert(path, picture)
    return Volume(values, geometry)


def to_hu(path, plane):
    """Rounds a slice of a CT to what int16 holds."""
    _check_finite(path, plane)
    plane = np.rint(plane)
    if plane.min() < -32768 or plane.max() > 32767:
        raise DataError(
            f"{path} holds values from {plane.min():g} to {plane.max():g} in a slice, which is not "
            "a CT's: save it as int16, in Hounsfield units"
        )
    return plane


def to_intensity(path, plane):
    """A slice of an MR as float32, which must hold each of its values."""
    with np.errstate(over="ignore"):
        plane = plane.astype(np.float32)
    _check_finite(path, plane)
    return plane


def to_labels(path, plane):
    """A slice of a label volume, of integers that uint8 holds."""
    if not (plane == np.rint(plane)).all() or plane.min() < 0 or plane.max() > 255:
        raise DataError(
            f"{path} holds other values than integers in [0, 255]: save the labels as uint8"
        )
    return plane


def _check_finite(path, plane):
    if not np.isfinite(plane).all():
        raise DataError(f"{path} holds voxels that are not numbers: correct them")
