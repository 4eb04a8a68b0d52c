"""Copies what a CT slice needs out of a DICOM file, after checking it. No TensorFlow.

GDCM takes any memory that an element claims, follows sequences until its stack ends, inflates
without a limit, and reads files that break the rules in several ways of its own. So it only gets
files that are made here: known elements, and pixels of the size that Rows and Columns say (DICOM
PS3.5, 7.1).
"""

import io
import os
import struct
import zlib

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats.dicom_frames import ENCAPSULATED, check_frame
from jax_pix2pix.imaging.memory import check_memory
from jax_pix2pix.safety.safe_files import open_to_read

PREAMBLE = 132  # bytes; the last four are DICM
UNDEFINED = 0xFFFFFFFF
MAX_DEPTH = 64  # sequences within sequences; scanners write some five
MAX_TEXT = 2**10  # bytes of an element that is copied
MAX_INFLATED = 2**29  # bytes of a deflated file: the largest slice, and its other elements
SYNTAX, FRAMES, PIXELS = (0x0002, 0x0010), (0x0028, 0x0008), (0x7FE0, 0x0010)
META = ((0x0002, 0x0002), (0x0002, 0x0003), SYNTAX)  # of group 2, those that are copied
ITEM, DELIMITERS = (0xFFFE, 0xE000), ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
LONG = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # their length has four bytes
SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
ROWS, COLUMNS, SAMPLES = (0x0028, 0x0010), (0x0028, 0x0011), (0x0028, 0x0002)
PHOTOMETRIC, ALLOCATED = (0x0028, 0x0004), (0x0028, 0x0100)
SERIES, MODALITY, SOP_CLASS = (0x0020, 0x000E), (0x0008, 0x0060), (0x0008, 0x0016)
DESCRIPTION, IMAGE_TYPE = (0x0008, 0x103E), (0x0008, 0x0008)
ACQUISITION, TIME = (0x0020, 0x0012), (0x0020, 0x0100)  # of a temporal position
TOLD = (SERIES, MODALITY, SOP_CLASS, DESCRIPTION, IMAGE_TYPE, ACQUISITION, TIME)
COPIED = {  # in the order of a file: names, place in the patient, and how pixels are coded
    (0x0008, 0x0016): b"UI", (0x0008, 0x0018): b"UI", MODALITY: b"CS",
    (0x0018, 0x0050): b"DS", (0x0018, 0x0088): b"DS", (0x0020, 0x000D): b"UI",
    (0x0020, 0x000E): b"UI", (0x0020, 0x0032): b"DS", (0x0020, 0x0037): b"DS", SAMPLES: b"US",
    PHOTOMETRIC: b"CS", (0x0028, 0x0006): b"US", FRAMES: b"IS", ROWS: b"US", COLUMNS: b"US",
    (0x0028, 0x0030): b"DS", ALLOCATED: b"US", (0x0028, 0x0101): b"US", (0x0028, 0x0102): b"US",
    (0x0028, 0x0103): b"US", (0x0028, 0x0120): b"US", (0x0028, 0x0121): b"US",
    (0x0028, 0x1052): b"DS", (0x0028, 0x1053): b"DS",
}  # fmt: skip
SHOWN = {(0x0028, 0x1050): b"DS", (0x0028, 0x1051): b"DS", (0x0028, 0x1056): b"CS"}  # the window
# The first elements that files have in these groups, in which all files begin.
FIRST = {0x0002: range(2), 0x0008: (0x0000, 0x0001, 0x0005, 0x0006, 0x0008, 0x0012, 0x0016, 0x0018)}
# The pixels, as they are stored and twice as ITK and NumPy hold them in float64.
HELD = (np.uint32, np.float64, np.float64, np.float64)


def is_dicom(path, below=None):
    """Tells whether a regular file begins as DICOM files do: with a preamble or, as older programs
    write them, with the first element of group 2 or 8."""
    with open_to_read(path, below) as file:
        begin = file.read(PREAMBLE)
        return begin[PREAMBLE - 4 :] == b"DICM" or _begins_raw(begin, _size(file))


def _begins_raw(begin, size):
    """Tells whether the first bytes of a file are an element as `FIRST` has them, and its length
    is one that it may have."""
    if len(begin) < 8:
        return False
    group, element = struct.unpack("<HH", begin[:4])
    if element not in FIRST.get(group, ()):
        return False
    if begin[4:6] in SHORT:
        return struct.unpack("<H", begin[6:8])[0] <= min(MAX_TEXT, size)
    explicit = begin[4:6] in LONG and begin[6:8] == b"\0\0"
    return explicit or struct.unpack("<I", begin[4:8])[0] <= min(MAX_TEXT, size)


def membership(path, below=None):
    """Reads the elements that tell which volume a file belongs to, whatever it holds.

    Returns:
        {tag of TOLD: text}, "" where an element is missing.

    Raises:
        ValueError: the file is damaged, or made to do harm; the text names no file.
        OSError: it cannot be opened.
    """
    with open_to_read(path, below) as file:
        _, syntax = _meta(file)
        elements = _Elements(_inflated(file) if syntax == DEFLATED else file, syntax)
        found = {tag: elements.value(length) for tag, length in elements if tag in TOLD}
    texts = {tag: found.get(tag, b"").decode("utf-8", "surrogateescape") for tag in TOLD}
    return {tag: text.strip("\0 ") for tag, text in texts.items()}


def plain_slice(path, below=None):
    """Makes a file of the one slice that a DICOM file holds, for GDCM to read.

    Args:
        path: of a file that `is_dicom`.
        below: as for `safe_files.open_to_read`.

    Returns:
        bytes: explicit little endian, or the frame as it is encapsulated.

    Raises:
        ValueError: the file is damaged, or made to do harm; the text names no file.
        DataError: it holds no single slice of numbers, or too large a one.
        OSError: it cannot be opened.
    """
    return plain_image(path, below)[1]


def plain_image(path, below=None, instead=None):
    """Makes the file of `plain_slice`, and tells what the original says.

    Args:
        instead: {tag of COPIED: value} that the file gets in place of its own.

    Returns:
        ({tag of COPIED or SHOWN: bytes, or a number of 16 bits}, bytes of the file).

    Raises:
        As `plain_slice`.
    """
    with open_to_read(path, below) as file:
        meta, syntax = _meta(file)
        elements = _Elements(_inflated(file) if syntax == DEFLATED else file, syntax)
        kinds = COPIED | SHOWN
        found = {tag: elements.value(length) for tag, length in elements if tag in kinds}
        for tag in (tag for tag in found if kinds[tag] == b"US"):
            found[tag] = elements.number(found[tag])
        if found.get(MODALITY, b"").strip(b"\0 ") == b"CT" and PHOTOMETRIC in found:
            # MONOCHROME1 is a wish of how to show HU (PS3.3, C.7.6.3.1.2), but ITK inverts them.
            found[PHOTOMETRIC] = b"MONOCHROME2"
        rows, columns, bits = (found.get(tag) for tag in (ROWS, COLUMNS, ALLOCATED))
        if not (rows and columns and bits and elements.pixels[1]):
            raise ValueError("it holds no image")
        if int(found.get(FRAMES, b"").strip(b"\0 ") or 1) > 1:
            raise DataError(f"{path} holds many frames: convert it to one file a slice")
        if found.get(SAMPLES) not in (None, 1) or bits not in (8, 16, 32):
            raise DataError(f"{path} does not hold one number a pixel: remove it")
        check_memory(path, (rows, columns), *HELD)
        if syntax in ENCAPSULATED:
            pixels = elements.fragments(2 * rows * columns * bits // 8 + 2**16)
            check_frame(syntax, pixels, rows, columns, bits)
            pixels = _as_fragments(pixels)
        else:
            meta[SYNTAX] = EXPLICIT.encode()
            pixels = _element(PIXELS, b"OW", elements.native(rows * columns * bits // 8, bits))
    head = b"".join(_element(tag, b"UI", meta[tag]) for tag in META if tag in meta)
    length = _element((0x0002, 0), b"UL", struct.pack("<I", len(head)))
    written = found | (instead or {})
    body = [
        _element(tag, kind, written[tag])
        for tag, kind in COPIED.items()
        if written.get(tag) not in (None, b"")
    ]
    return found, b"".join([bytes(PREAMBLE - 4), b"DICM", length, head, *body, pixels])


class _Elements:
    """Iterates over (tag, length) of the elements at the top of a file, up to its pixels.

    Each is followed by its value, which `value` reads. Sequences are passed over.
    """

    def __init__(self, file, syntax):
        self.order = ">" if syntax == BIG_ENDIAN else "<"
        self.pixels = b"", 0  # kind and length, once they are reached
        self._file, self._size, self._implicit = file, _size(file), syntax == IMPLICIT

    def __iter__(self):
        depth, implicit_above = 0, 0 if self._implicit else MAX_DEPTH + 1
        while header := self._file.read(8):
            if not header.strip(b"\0"):
                continue  # padding after the last element
            if len(header) < 8:
                raise ValueError(f"it ends within an element, at byte {self._size}")
            tag = struct.unpack(f"{self.order}HH", header[:4])
            implicit = self._implicit or depth > implicit_above
            kind, length = self._kind_and_length(header, tag, implicit)
            if tag == PIXELS and not depth:
                self.pixels = kind, length
                return
            if tag in DELIMITERS:
                depth = max(0, depth - 1)
                implicit_above = MAX_DEPTH + 1 if depth <= implicit_above else implicit_above
            elif length == UNDEFINED:
                if kind == b"UN":  # holds a sequence, coded as the standard's oldest files are
                    implicit_above = min(implicit_above, depth)
                depth += 1
                if depth > MAX_DEPTH:
                    raise ValueError(f"its sequences are nested more than {MAX_DEPTH} deep")
            else:
                self._check(tag, length)
                end = self._file.tell() + length
                if not depth:
                    yield tag, length
                self._file.seek(end)

    def value(self, length):
        """The bytes of the element that was reached."""
        if length > MAX_TEXT:
            raise ValueError(f"an element of a few bytes claims {length}")
        return self._file.read(length)

    def number(self, value):
        """The first number of an element of 16 bits; None if it has none."""
        return struct.unpack(f"{self.order}H", value[:2])[0] if len(value) > 1 else None

    def native(self, wanted, bits):
        """Reads the bytes of pixels that are not compressed, in little endian."""
        kind, length = self.pixels
        self._check(PIXELS, length)
        if length < wanted:
            raise ValueError(f"it has {length} of {wanted} bytes of pixels")
        content = self._file.read(wanted)
        if self.order == "<":
            return content
        # Bytes of 8 bits are swapped too, if they are stored in words.
        width = max(bits // 8, 1 + (kind == b"OW"))
        content += bytes(-len(content) % width)
        return np.frombuffer(content, f">u{width}").astype(f"<u{width}").tobytes()[:wanted]

    def fragments(self, most):
        """Reads the pixels of one compressed frame, which may be in several fragments."""
        if self.pixels[1] != UNDEFINED:
            raise ValueError("its compressed pixels are in no fragments")
        pieces, total = [], 0
        while True:
            header = self._file.read(8).ljust(8, b"\0")
            *tag, length = struct.unpack("<HHI", header)
            if tuple(tag) == DELIMITERS[1]:
                return b"".join(pieces[1:])  # the first is a table of frames
            if tuple(tag) != ITEM:
                raise ValueError("the fragments of its pixels do not end")
            self._check(PIXELS, length)
            total += length
            if total > most:
                raise ValueError(f"its compressed pixels are more than {most} bytes")
            pieces.append(self._file.read(length))

    def _check(self, tag, length):
        if length > self._size - self._file.tell():
            raise ValueError(f"its element {tag[0]:04x},{tag[1]:04x} claims {length} bytes")

    def _kind_and_length(self, header, tag, implicit):
        """Reads (kind, length) of an element; leaves the file where its value begins.

        The kind is b"" where the file does not state it. Private elements of invalid kinds are
        coded without.
        """
        kind = header[4:6]
        if kind in SHORT and tag[0] != ITEM[0] and not implicit:
            return kind, struct.unpack(f"{self.order}H", header[6:])[0]
        if kind in LONG and tag[0] != ITEM[0] and not implicit:
            return kind, struct.unpack(f"{self.order}I", self._file.read(4).ljust(4, b"\0"))[0]
        if not (implicit or tag[0] == ITEM[0] or tag[0] % 2):
            raise ValueError(f"its element {tag[0]:04x},{tag[1]:04x} has no kind of value")
        return b"", struct.unpack(f"{self.order}I", header[4:])[0]


def _meta(file):
    """Reads ({tag: value} of META, transfer syntax); leaves the file after group 2.

    Without a syntax, which a file without group 2 has not, its first element tells whether kinds
    are stated.
    """
    if file.read(PREAMBLE)[PREAMBLE - 4 :] != b"DICM":
        file.seek(0)
    meta, size = {}, _size(file)
    while True:
        header = file.read(8)
        if len(header) < 8 or header[:2] != b"\x02\0":
            file.seek(-len(header), os.SEEK_CUR)
            break
        tag, long = struct.unpack("<HH", header[:4]), header[4:6] in LONG
        length = int.from_bytes(file.read(4) if long else header[6:], "little")
        if length > size - file.tell():
            raise ValueError(f"its element {tag[0]:04x},{tag[1]:04x} claims {length} bytes")
        value = file.read(min(length, MAX_TEXT))
        file.seek(length - len(value), os.SEEK_CUR)
        if tag in META:
            meta[tag] = value.rstrip(b"\0 ")
    if SYNTAX not in meta:
        stated = header[4:6] in SHORT or header[4:6] in LONG
        meta[SYNTAX] = (EXPLICIT if stated else IMPLICIT).encode()
    syntax = meta[SYNTAX].decode("latin-1")
    if syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, *ENCAPSULATED):
        raise ValueError(f"its transfer syntax {syntax[:64]!a} is not known, save it uncompressed")
    return meta, syntax


def _inflated(file):
    """Inflates the rest of a file, within a limit."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflate.decompress(file.read(MAX_INFLATED), MAX_INFLATED)
    except zlib.error as error:
        raise ValueError(error) from error
    if not inflate.eof:
        raise ValueError(f"it does not end, or inflates to more than {MAX_INFLATED} bytes")
    return io.BytesIO(content)


def _size(file):
    """Bytes of a file, whose place stays."""
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    return size


def _as_fragments(frame):
    content = b"".join(struct.pack("<HHI", *ITEM, len(each)) + each for each in (b"", _even(frame)))
    end = struct.pack("<HHI", *DELIMITERS[1], 0)
    return struct.pack("<HH", *PIXELS) + b"OB\0\0" + struct.pack("<I", UNDEFINED) + content + end


def _even(value):
    return value + b"\0" * (len(value) % 2)


def _element(tag, kind, value):
    value = struct.pack("<H", value) if kind == b"US" else value
    value = _even(value) if kind in (b"UI", b"OW") else value + b" " * (len(value) % 2)
    length = struct.pack("<2xI" if kind in LONG else "<H", len(value))
    return struct.pack("<HH", *tag) + kind + length + value
