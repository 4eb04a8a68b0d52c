"""What an ArrayRecord file says of its records, looked at before its reader takes memory for them.

A prepared folder may be somebody else's, and kilobytes of compressed records unpack to gigabytes.
`builder.py` compresses nothing and puts each record into a chunk of its own. So a chunk takes no
more memory than its bytes in the file, and one that is compressed, or larger than a record can be,
is refused. No TensorFlow. `streamed.py` reads shards that stay in a store.

A file consists of chunks of Riegeli; each 64 KiB begin with 24 bytes that belong to no chunk. The
last 64 KiB name the place of the footer, which names the place of each record.
"""

import contextlib
import os
import threading

from array_record.python.array_record_module import ArrayRecordReader

from jax_pix2pix.safety import safe_files

BLOCK, BLOCK_HEADER = 2**16, 24
HEADER = 40  # bytes of a chunk's header: hash, bytes, hash, type and records, unpacked bytes
STRINGS = 2**16  # bytes of a record beside its arrays: names and numbers
PLACE = 32  # bytes of a record's place in the footer, at most
ENDS = 8 * PLACE  # bytes of what names the footer's place, at most


class Shards:
    """The shards of a split in a folder, opened when they are first read.

    Args:
        shards: [(path, number of records)].
        most: bytes of a record's arrays.
    """

    def __init__(self, shards, most):
        self._shards, self._most = shards, most
        self._opened = {}
        self._lock = threading.Lock()

    def shown(self, number):
        """A shard's path, for messages."""
        return self._shards[number][0]

    def was_opened(self, number):
        """Whether a shard could be opened."""
        return number in self._opened

    def read(self, wanted):
        """Serialized records by the shard's number; wanted: {number: positions in the shard}.

        Raises:
            ValueError, RuntimeError, IndexError, OSError: a shard or a record is damaged.
        """
        found = {}
        for number, positions in wanted.items():
            shard, reader = self._open(number)
            shard.check(positions)
            found[number] = reader.read(positions)
        return found

    def _open(self, number):
        with self._lock:
            if number not in self._opened:
                path, count = self._shards[number]
                shard = Shard(path, count, self._most)
                self._opened[number] = shard, reader_of(path, count)
            return self._opened[number]


def reader_of(path, count):
    """An ArrayRecordReader for random access to a file that has been looked at."""
    reader = ArrayRecordReader(
        path,
        options="readahead_buffer_size:0,max_parallelism:0",
        file_reader_buffer_size=32768,
    )
    if reader.num_records() != count:
        reader.read([0])  # raises the reason if the file cannot be opened
    return reader


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
                self._places = places_of(descriptor, count)
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
                check_record(descriptor, self._places[position], self._most)
                self._checked[position] = 1

    @contextlib.contextmanager
    def _opened(self):
        with safe_files.open_to_read(self._path, below=os.path.dirname(self._path)) as file:
            yield file.fileno()


def check_record(descriptor, place, most):
    """Raises ValueError unless a chunk is one record of at most so many bytes."""
    _, records = _chunk(descriptor, place, most)
    if records != 1:
        raise ValueError("it lies with other records: no shard is prepared so")


def footer_place(descriptor):
    """Where the footer begins, which is where the last record ends."""
    return _numbers(_records(descriptor, os.fstat(descriptor).st_size - BLOCK, ENDS)[0])[1]


def footer_size(count):
    """Bytes of the chunk with the places of so many records, at most."""
    return PLACE * (count + 32)


def places_of(descriptor, count):
    """Where the records' chunks begin, from the file's footer."""
    ends = _records(descriptor, os.fstat(descriptor).st_size - BLOCK, ENDS)
    about, *places = _records(descriptor, _numbers(ends[0])[1], footer_size(count))
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
