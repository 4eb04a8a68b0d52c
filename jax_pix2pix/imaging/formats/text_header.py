"""Reads what MetaImage and NRRD have in common: a header of text lines, then the voxels.

SimpleITK does not read them, because it allocates what a header claims, follows a header to other
files, and gives the voxels of a damaged compressed .mha without an error.
"""

import contextlib
import dataclasses
import math
import os
import zlib

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.memory import DEFLATE_RATIO
from jax_pix2pix.imaging.safe_io import unreadable
from jax_pix2pix.safety.safe_files import open_to_read

MAX_HEADER = 2**20
PIECE = 2**20  # bytes that are inflated at once
EITHER = zlib.MAX_WBITS | 32  # accepts zlib's and gzip's streams; both end with a checksum
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from left, back, head to right, front, head
COMPRESSION = 1  # level 0 to 9: higher ones take several times as long and save a tenth


@dataclasses.dataclass(frozen=True)
class Stored:
    """How voxels are stored.

    Attributes:
        shape: of the voxels, the first axis running fastest.
        dtype: NumPy's, with its byte order.
        compressed: by zlib or gzip.
    """

    shape: tuple
    dtype: np.dtype
    compressed: bool

    @property
    def bytes(self):
        return math.prod(self.shape) * self.dtype.itemsize


@contextlib.contextmanager
def opened(path, kind, below=None):
    """Yields a regular file and turns errors into DataError.

    Args:
        kind: what it should be.
        below: as for `safe_files.open_to_read`.
    """
    try:
        with open_to_read(path, below) as file:
            yield file
    except DataError:
        raise
    except KeyError as error:
        raise unreadable(path, kind, f"its header has no {error}") from error
    except (OSError, ValueError, zlib.error) as error:
        raise unreadable(path, kind, error) from error


def lines(file):
    """Yields the lines of a header, stripped; the caller knows which is the last."""
    while True:
        line = file.readline(MAX_HEADER)
        if not line or file.tell() >= MAX_HEADER:
            raise ValueError("its header does not end")
        yield line.decode("latin-1").strip()


def shown(text):
    """Shortens text for a message: a header may be long."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def integers(text):
    return tuple(map(int, text.split()))


def numbers(text, shape):
    """Parses numbers between blanks into finite float64 of this shape."""
    found = np.array([float(word) for word in text.split()]).reshape(shape)
    if not np.isfinite(found).all():
        raise ValueError(f"its header has the numbers {shown(text)}")
    return found


def check_length(file, stored):
    """Raises ValueError if the rest of a file cannot hold the voxels."""
    left = os.fstat(file.fileno()).st_size - file.tell()
    if stored.bytes > left * (DEFLATE_RATIO if stored.compressed else 1):
        raise ValueError(f"no {stored.bytes} bytes for the shape {stored.shape}")


def read_voxels(file, stored):
    """Reads voxels [i, j, k] in the file's axes, after the checks above."""
    content = np.empty(stored.bytes, np.uint8)
    found = _inflate(file, content) if stored.compressed else file.readinto(content)
    if found != stored.bytes:
        raise ValueError(f"it has {found} of {stored.bytes} bytes of voxels")
    return content.view(stored.dtype).reshape(stored.shape, order="F")


def _inflate(file, content):
    """Fills uint8 `content` from a compressed stream piece by piece. -> bytes that were there."""
    inflate, found = zlib.decompressobj(EITHER), 0
    while not inflate.eof:
        piece = inflate.unconsumed_tail or file.read(PIECE)
        # One byte more than expected shows whether the stream ends.
        more = inflate.decompress(piece, min(PIECE, len(content) + 1 - found))
        if found + len(more) > len(content) or not (piece or more):
            raise ValueError(f"its stream does not end after {len(content)} bytes of voxels")
        content[found : found + len(more)] = np.frombuffer(more, np.uint8)
        found += len(more)
    return found


def text_of(numbers):
    """Formats numbers for a header: the shortest text that reads as the same float64."""
    return [repr(number + 0.0) for number in np.asarray(numbers, np.float64).ravel().tolist()]


def little_endian(voxels):
    """Converts [i, j, k] to bytes, the first axis running fastest."""
    return voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
