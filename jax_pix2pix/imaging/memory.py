"""Limits the memory that a file may take once it is read. No TensorFlow.

Every reader asks here before it takes memory, with all arrays that are held at one time, since a
small file may claim many voxels, and a voxel of one byte may become several of four.
"""

import math

import numpy as np

from jax_pix2pix.errors import DataError

# Holds 2,340 slices of 512 x 512 as int16 with their working copies, or an MR of 800^3 as float32,
# and fits into a machine of 16 GiB beside all else. Nothing changes it: files above it are cropped.
MAX_BYTES = 2**33
DEFLATE_RATIO = 1032  # the highest compression of gzip, zlib and PNG
MAX_SIDE = 8192  # a plane is padded to a square of its longer side, so that each side counts


def check_memory(path, shape, *dtypes):
    """Raises DataError if arrays of this shape would be above the limits.

    Args:
        path: of the file, for the error.
        shape: integers, one for each axis.
        dtypes: NumPy's, one for each array of that shape that is held at the same time.
    """
    by = " x ".join(map(str, shape))
    if max(shape) > MAX_SIDE:
        raise DataError(f"{path} has {by} pixels, above the limit of {MAX_SIDE} a side: crop it")
    taken = math.prod(shape) * sum(np.dtype(dtype).itemsize for dtype in dtypes)
    if taken > MAX_BYTES:
        raise DataError(
            f"{path} has {by} pixels, which take {taken} bytes to read and convert, above the "
            f"limit of {MAX_BYTES}: crop it"
        )
