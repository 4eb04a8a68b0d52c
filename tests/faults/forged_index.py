"""Writes the index of an OCDBT database as TensorStore reads it, with anything in it."""

import shutil
import struct

import numpy as np

NODE, MANIFEST = b"\x0c\xdb\x20\xde", b"\x0c\xdb\x3a\x2a"
BLOCK = 2**17  # most bytes of a block of zstd


def replace(state, node):
    """Makes a node, from `leaf`, the index of a state's folder; its files stay beside it."""
    shutil.rmtree(state / "ocdbt.process_0", ignore_errors=True)
    (state / "d").mkdir(exist_ok=True)
    (state / "d" / "node").write_bytes(node)
    config = bytes(16) + b"\0" + varint(1024) + varint(10**8) + b"\4\0"
    version = b"\1\1\0\0\0" + varint(len(node)) + b"\1\1\0" + bytes(8)
    body = config + _files("", "d/node") + version + b"\0"
    (state / "manifest.ocdbt").write_bytes(_framed(MANIFEST, zstd(body)))


def leaf(keys, lengths, base="", name="", zeros=0):
    """A node of keys whose values are in a file, or zeros in the node itself where it has no name.

    Args:
        keys: sorted texts.
        lengths: bytes of each value, one after the other from the file's beginning.
        base, name: path of the file, as an OCDBT database splits it.
        zeros: bytes at the node's end.
    """
    outside = bool(name)
    body = b"\0" + (_files(base, name) if outside else b"\0") + varint(len(keys))
    body += bytes(len(keys) - 1) + b"".join(varint(len(key)) for key in keys)
    body += "".join(keys).encode() + b"".join(map(varint, lengths)) + bytes([outside]) * len(keys)
    if outside:
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        body += bytes(len(keys)) + b"".join(map(varint, starts))
    return _framed(NODE, zstd(body, zeros))


def zstd(content, zeros=0):
    """A zstd frame of the content as it is, and of zeros, of which 128 KiB take 4 bytes."""
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([7 << 3])
    parts = [content[i : i + BLOCK] for i in range(0, len(content), BLOCK)]
    blocks = [(len(part) << 3, part) for part in parts]
    blocks += [(BLOCK << 3 | 2, b"\0")] * -(-zeros // BLOCK)
    for number, (header, part) in enumerate(blocks, 1):
        frame += (header | (number == len(blocks))).to_bytes(3, "little") + part
    return frame


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _files(base, name):
    path = (base + name).encode()
    return b"\1" + varint(len(path)) + varint(len(base)) + path


def _framed(magic, frame):
    content = magic + struct.pack("<Q", len(frame) + 18) + b"\0\1" + frame
    return content + struct.pack("<I", _crc32c(content))


def _crc32c(content):
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    crc = 0xFFFFFFFF
    for byte in content:
        crc = int(table[(crc ^ byte) & 255]) ^ crc >> 8
    return crc ^ 0xFFFFFFFF
