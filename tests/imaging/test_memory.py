"""The limits of what a file may take: large scans are read, and larger claims are refused."""

import re

import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.formats.voxels import check_shape
from jax_pix2pix.imaging.memory import MAX_BYTES, check_memory


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((512, 512, 2300), np.int16),
        ((512, 512, 1500), np.float32),
        ((512, 512, 512), np.float64),
        ((800, 800, 800), np.float32),
        ((512, 512, 2500), np.uint8),
        ((8192, 8192, 1), np.uint8),
    ],
)
def test_large_scans_are_within_the_limits(shape, dtype):
    check_shape("a.nii", shape, np.dtype(dtype))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2000, 2000, 200), np.uint8, "take 10400000000 bytes"),
        ((2**62, 1, 1), np.uint8, "limit of 8192 a side"),
        ((2, 8193, 2), np.uint8, "2 x 8193 x 2 pixels, above the limit of 8192 a side"),
        ((2**32, 2**32, 0), np.uint8, "three dimensions"),
        ((-5, -6, 7), np.int16, "three dimensions"),
        ((5, 6), np.int16, "three dimensions"),
        ((), np.int16, "three dimensions"),
    ],
)
def test_claims_beyond_them_are_refused(shape, dtype, message):
    with pytest.raises(DataError, match=re.escape("a.nii ")) as caught:
        check_shape("a.nii", shape, np.dtype(dtype))
    assert message in str(caught.value)


def test_all_arrays_count_together():
    shape = (1024, 1024, 1024)
    check_memory("a", shape, np.float64)
    check_memory("a", shape, np.int16, np.int16, np.float32)
    with pytest.raises(DataError, match=f"above the limit of {MAX_BYTES}"):
        check_memory("a", shape, np.int16, np.int16, np.float32, np.uint8)


def test_what_a_volume_becomes_counts():
    """A spacing of 50 mm makes 125,000 times as many voxels of 1 mm."""
    shape = (40, 40, 40)
    cubes = volume_resizing.isotropic(shape, (50, 50, 50), 1.0)
    assert tuple(map(len, cubes)) == (2000,) * 3
    with pytest.raises(DataError, match="2000 x 2000 x 2000 pixels, which take 96000000000 bytes"):
        volume_resizing.check_resizing("a.mhd", shape, tuple(map(len, cubes)))
    # Old slices with new rows and columns are held between the two steps.
    with pytest.raises(DataError, match="8000 x 512 x 512 pixels"):
        volume_resizing.check_resizing("a.mhd", (8000, 2, 2), (64, 512, 512))
    volume_resizing.check_resizing("a.mhd", (1500, 512, 512), (128, 256, 256))
