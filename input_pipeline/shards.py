"""What an ArrayRecord file says of its records, looked at before its reader takes memory for them.

A prepared folder may be somebody else's, and kilobytes of compressed records unpack to gigabytes.
`builder.py` compresses nothing and puts each record into a chunk of its own. So a chunk takes no
more memory than its bytes in the file, and one that is compressed, or larger than a record can be,
is refused. No TensorFlow.

A file consists of chunks of Riegeli; each 64 KiB begin with 24 bytes that belong to no chunk. The
last 64 KiB name the place of the footer, which names the place of each record.
"""

import contextlib
import os

from jax_pix2pix.safety import safe_files

BLOCK, BLOCK_HEADER = 2**16, 24
HEADER = 40  # bytes of a chunk's header: hash, bytes, hash, type and records, unpacked bytes
STRINGS = 2**16  # bytes of a record beside its arrays: names and numbers
PLACE = 32  # bytes of a record's place in the footer, at most


class Shard:
    """The places of a file's records, and a look at each before it is read.

    Args:
        path: the file.
        count: how many records it should have.
        most: bytes of a record's arrays.

    Raises:
        ValueError: the file is not as `builder.py` writes it.
        OSError: it is no regular file, or cannot be read.
    """

    def __init__(self, path, count, most):
        self._path, self._most = path, most + STRINGS
        with self._opened() as descriptor:
            try:
                self._places = _places(descriptor, count)
            except (LookupError, TypeError):
                raise ValueError("its footer is damaged") from None
        self._checked = bytearray(count)

    def check(self, positions):
        """Raises ValueError if one of the records at these positions may take more memory."""
        new = [position for position in positions if not self._checked[position]]
        if not new:
            return
        with self._opened() as descriptor:  # no longer: a process may have few files open
            for position in new:
                _, records = _chunk(descriptor, self._places[position], self._most)
                if records != 1:
                    raise ValueError("it lies with other records: no shard is prepared so")
                self._checked[position] = 1

    @contextlib.contextmanager
    def _opened(self):
        with safe_files.open_to_read(self._path, below=os.path.dirname(self._path)) as file:
            yield file.fileno()


def _places(descriptor, count):
    """Where the records' chunks begin, from the file's footer."""
    ends = _records(descriptor, os.fstat(descriptor).st_size - BLOCK, 8 * PLACE)
    about, *places = _records(descriptor, _numbers(ends[0])[1], PLACE * (count + 32))
    found = _numbers(_numbers(about)[1])
    if not found[2] == found[3] == len(places) == count or any(end != ends[0] for end in ends):
        raise ValueError(f"{found[3]} records and not {count}")
    return [_numbers(place)[1] for place in places]


def _records(descriptor, place, most):
    """The records of an uncompressed chunk, as bytes."""
    size, count = _chunk(descriptor, place, most)
    content = _read(descriptor, place, HEADER + size)[HEADER + 1 :]
    of_sizes, sizes = _number(content, 0)
    end = values = sizes + of_sizes
    records = []
    while sizes < values:
        length, sizes = _number(content, sizes)
        records.append(content[end : end + length])
        end += length
    if not records or len(records) != count:
        raise ValueError("its footer is damaged")
    return records


def _chunk(descriptor, place, most):
    """Checks a chunk. -> (bytes of its content, number of its records)."""
    header = _read(descriptor, place, HEADER + 1)
    size, records, unpacked = (header[start : start + 8] for start in (8, 24, 32))
    if len(header) <= HEADER or records[:1] != b"r" or header[HEADER]:
        raise ValueError("it is damaged or compressed: no shard is prepared so")
    size, unpacked = (int.from_bytes(number, "little") for number in (size, unpacked))
    if max(size, unpacked) > most:
        raise ValueError(f"it has {max(size, unpacked)} bytes, and at most {most} belong there")
    return size, int.from_bytes(records[1:], "little")


def _read(descriptor, place, count):
    """Bytes of a chunk from its place on, without what belongs to no chunk."""
    parts = []
    while count > 0 and 0 <= place < 2**62:
        place += BLOCK_HEADER if place % BLOCK == 0 else 0
        part = os.pread(descriptor, min(count, BLOCK - place % BLOCK), place)
        if not part:
            break
        parts.append(part)
        place, count = place + len(part), count - len(part)
    return b"".join(parts)


def _number(content, start):
    """Reads a varint. -> (the number, the place after it)."""
    for place in range(start, min(start + 10, len(content))):
        if content[place] < 128:
            parts = content[start : place + 1]
            return sum((part & 127) << 7 * i for i, part in enumerate(parts)), place + 1
    raise ValueError("its footer is damaged")


def _numbers(message):
    """The fields of a protocol buffer that are numbers or bytes: {number of the field: value}."""
    fields, place = {}, 0
    while place < len(message):
        key, place = _number(message, place)
        value, place = _number(message, place)
        if key & 7 == 2:
            place, value = place + value, message[place : place + value]
        elif key & 7:
            raise ValueError("its footer is damaged")
        fields[key >> 3] = value
    return fields
