"""Checks that a compressed frame of a DICOM slice has the size that its elements say.

Decoders take memory for what the frame's own header claims.
"""

import struct

JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70)}
JPEG_LS = {f"1.2.840.10008.1.2.4.{number}" for number in (80, 81)}
JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)}
RLE = {"1.2.840.10008.1.2.5"}
ENCAPSULATED = JPEG | JPEG_LS | JPEG_2000 | RLE
SEQUENTIAL = (0xC0, 0xC1, 0xC3)  # JPEG's frames of one pass
LS = 0xF7
RLE_RATIO = 64  # two bytes become at most 128
MAX_TILES = 1024  # of JPEG 2000, each of which takes memory


def check_frame(syntax, frame, rows, columns, bits):
    """Raises ValueError unless a frame's own header has this size, and one number a pixel.

    Args:
        syntax: one of ENCAPSULATED.
        frame: bytes.
        bits: that are allocated for a pixel.
    """
    try:
        if syntax in RLE:
            found = _rle(frame, rows, columns, bits)
        elif syntax in JPEG_2000:
            found = _jpeg_2000(frame)
        else:
            found = _jpeg(frame, SEQUENTIAL if syntax in JPEG else (LS,))
    except (struct.error, IndexError):
        raise ValueError("its compressed pixels end within their header") from None
    height, width, components, depth = found
    if (height, width, components) != (rows, columns, 1) or depth > bits:
        raise ValueError(
            f"its compressed pixels are {width} x {height} of {components} x {depth} bits, not "
            f"{columns} x {rows} of {bits}"
        )


def _jpeg(frame, kinds):
    """(rows, columns, components, bits) of JPEG and JPEG-LS: of the one frame before its scan."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError("its compressed pixels are no JPEG")
    place, found = 2, None
    while True:
        mark, kind, length = struct.unpack_from(">BBH", frame, place)
        if mark != 0xFF:
            raise ValueError("its compressed pixels are no JPEG")
        if kind == 0xFF:  # fills
            place += 1
            continue
        if kind == 0xDA:
            if found is None:
                raise ValueError("its compressed pixels have no size")
            return found
        if kind in kinds and found is None:
            depth, height, width, components = struct.unpack_from(">BHHB", frame, place + 4)
            found = height, width, components, depth
        elif (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)) or kind == LS:
            raise ValueError("its compressed pixels are in an unknown kind of frame")
        place += 2 + length


def _jpeg_2000(frame):
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("its compressed pixels are no JPEG 2000")
    right, bottom, left, top, width, height, *_ = struct.unpack_from(">8I", frame, 8)
    components, depth = struct.unpack_from(">HB", frame, 40)
    tiles = -(-right // max(width, 1)) * -(-bottom // max(height, 1))
    if not width or not height or tiles > MAX_TILES:
        raise ValueError(f"its compressed pixels are in {tiles} tiles")
    return bottom - top, right - left, components, (depth & 0x7F) + 1


def _rle(frame, rows, columns, bits):
    """As it has no size of its own: the one wanted, if it can hold that."""
    count, *places = struct.unpack_from("<16I", frame)
    ends = [*places[1:count], len(frame)]
    if count != bits // 8 or places[0] != 64:
        raise ValueError(f"its compressed pixels are in {count} segments")
    for start, end in zip(places, ends, strict=False):
        if not start <= end <= len(frame) or (end - start) * RLE_RATIO < rows * columns:
            raise ValueError(f"its compressed pixels are no {columns} x {rows}")
    return rows, columns, 1, bits
