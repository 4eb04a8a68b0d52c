"""Writers whose files have the same bytes whichever zlib compresses them.

zlib and zlib-ng differ in the matches that they find, but not under run-length deflate, which looks
for none further back than a byte.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 [h, w] as a grey PNG."""
    Image.fromarray(pixels).save(path, compress_level=9, compress_type=zlib.Z_RLE)


def write_gzip(path: Path, content: bytes) -> None:
    """Writes a gzip file without name, time and system."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    body = deflate.compress(content) + deflate.flush()
    header = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no flags, time; system unknown
    path.write_bytes(header + body + struct.pack("<II", zlib.crc32(content), len(content)))
