"""Writers whose files have the same bytes whichever zlib compresses them.

zlib and zlib-ng find different matches, except under run-length deflate, which looks for none
further back than a byte.
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
    body = _deflated(content)
    header = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # deflate; no flags, time; system unknown
    path.write_bytes(header + body + struct.pack("<II", zlib.crc32(content), len(content)))


def write_mhd(path: Path, voxels: np.ndarray, spacing_mm, origin_mm, compressed: bool) -> None:
    """Writes a MetaImage header and, beside it, its voxels in .zraw or .raw.

    Args:
        path: ends in .mhd.
        voxels: int16 or uint8 [slices, rows, columns].
        spacing_mm, origin_mm: (x, y, z); the axes run to the left, back and head.
    """
    content = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
    }
    if compressed:
        # zlib's format has two bytes before the data and a checksum after it.
        content = b"\x78\x01" + _deflated(content) + struct.pack(">I", zlib.adler32(content))
        fields["CompressedDataSize"] = str(len(content))
    data = path.with_suffix(".zraw" if compressed else ".raw")
    fields |= {
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(f"{mm:.10g}" for mm in origin_mm),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": " ".join(f"{mm:g}" for mm in spacing_mm),
        "DimSize": " ".join(map(str, voxels.shape[::-1])),
        "ElementType": {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}[voxels.dtype.name],
        "ElementDataFile": data.name,
    }
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in fields.items()).encode())
    data.write_bytes(content)


def _deflated(content: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return deflate.compress(content) + deflate.flush()
