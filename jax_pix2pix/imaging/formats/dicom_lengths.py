"""Checks that files are DICOM and that their elements fit: GDCM allocates any claimed length.

The checks read only where elements begin and end (DICOM PS3.5, 7.1).
"""

import os
import struct

PREAMBLE = 132  # bytes; the last four are DICM
UNDEFINED = 0xFFFFFFFF
SYNTAX, PIXELS = (0x0002, 0x0010), (0x7FE0, 0x0010)
ITEM, DELIMITERS = (0xFFFE, 0xE000), ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
LONG = b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # their length has four bytes
SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()


def is_dicom(path):
    """Tells whether a file begins as DICOM files do."""
    with open(path, "rb") as file:
        return file.read(PREAMBLE)[PREAMBLE - 4 :] == b"DICM"


def check_lengths(path):
    """Raises ValueError if an element of a file with a preamble claims more than there is.

    The check stops at a private element that is not coded in the file's syntax.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(PREAMBLE)
        syntax, in_meta, fragments = "", True, False
        while header := file.read(8):
            order = ">" if syntax == BIG_ENDIAN and not in_meta else "<"
            tag = struct.unpack(f"{order}HH", header[:4].ljust(4, b"\0"))
            if in_meta and tag[0] != 2:
                in_meta = False
                if syntax == DEFLATED:
                    return  # compressed elements cannot be checked
                file.seek(-len(header), os.SEEK_CUR)
                continue
            if not header.strip(b"\0"):
                continue  # padding after the last element
            if len(header) < 8:
                raise ValueError(f"it ends within an element, at byte {size}")
            kind, length = _kind_and_length(file, header, order, tag, in_meta, syntax)
            if kind is None or (kind == b"UN" and length == UNDEFINED):
                return  # a manufacturer's private element, coded in another way
            if tag == SYNTAX and length <= 64:
                syntax = file.read(length).rstrip(b"\0 ").decode("latin-1")
                continue
            if tag in DELIMITERS:
                fragments = fragments and tag != DELIMITERS[1]
                continue
            if tag == ITEM and not fragments:
                continue  # its elements are checked one by one
            if kind == b"SQ" or length == UNDEFINED:
                fragments = fragments or (tag == PIXELS and length == UNDEFINED)
                continue
            if length > size - file.tell():
                raise ValueError(f"its element {tag[0]:04x},{tag[1]:04x} claims {length} bytes")
            file.seek(length, os.SEEK_CUR)


def _kind_and_length(file, header, order, tag, in_meta, syntax):
    """Reads (kind, length) of an element's value; leaves the file where the value begins.

    The kind is b"" where the file does not state it, and None for a private element whose kind is
    invalid.
    """
    if tag[0] == 0xFFFE or (syntax == IMPLICIT and not in_meta):
        return b"", struct.unpack(f"{order}I", header[4:])[0]
    kind = header[4:6]
    if kind in SHORT:
        return kind, struct.unpack(f"{order}H", header[6:])[0]
    if kind not in LONG:
        if tag[0] % 2:
            return None, 0
        raise ValueError(f"its element {tag[0]:04x},{tag[1]:04x} has no kind of value")
    return kind, struct.unpack(f"{order}I", file.read(4).ljust(4, b"\0"))[0]
