"""Prepared data whose records stay in their store: a batch fetches those of its own rows.

What describes the records (features, splits, tables) is copied to this machine. A shard's footer
says where each record lies. The ranges of a batch are asked for together, neighbours as one, and
put into a file in memory that is empty elsewhere. There they are looked at and read like those of a
shard on disk, checksums included. No TensorFlow.
"""

import contextlib
import os
import re
import shutil
from typing import NamedTuple

from input_pipeline import prepared_files, shards
from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.runs.workdir_files import RECORD
from jax_pix2pix.safety import safe_files

SHARE = 0.9  # of the disk's free bytes that a copy may take
SHARD = r".*\.array_record-\d{5,}-of-\d{5,}"
HEAD = shards.BLOCK_HEADER + shards.HEADER  # bytes with which each file begins
ENDS = HEAD + 1 + shards.ENDS  # bytes of the last block that name the footer's place, at most


class _Set(NamedTuple):
    store: storage.Store
    sizes: dict  # {object's name: bytes}


_sets = {}  # {folder of descriptions: _Set}, of what this process was told to read from a store


def folder_of(data, directory):
    """The folder of descriptions that stands for a prepared folder whose records stay away.

    None if this process reads a copy, or was not told to open a store.
    """
    folder = _folder(directory)
    wanted = storage.is_remote(data.data_dir) and data.from_store != "copy"
    return folder if wanted and folder in _sets else None


def _folder(directory):
    return directory.with_name(f"{directory.name}.streamed")


def describe(data, directory):
    """Copies the descriptions, if config.data.from_store says that the records stay in the store.

    With "auto" they stay if the whole needs more than SHARE of the disk's free bytes, and no copy
    is there.

    Args:
        directory: where the whole copy would be.

    Returns:
        The folder of descriptions, or None: the data are to be copied, or not in a store.

    Raises:
        DataError: the store cannot be used, or this system has no files in memory.
    """
    if folder := folder_of(data, directory):
        return folder
    if not storage.is_remote(data.data_dir) or data.from_store == "copy":
        return None
    if data.from_store == "auto" and directory.is_dir():
        return None
    store = storage.Store(storage.url_of(data.data_dir, directory))
    sizes, base = store.names(), storage.cache_base()
    if not {RECORD, prepared_files.SPLITS} <= sizes.keys():
        return None
    safe_files.make_folder(directory.parent, base)
    needed, free = sum(sizes.values()), shutil.disk_usage(base).free
    if data.from_store == "auto" and needed <= SHARE * free:
        return None
    if not hasattr(os, "memfd_create"):
        raise DataError(
            f"{store.url} has {needed:,} bytes, of which only Linux reads parts: set "
            "config.data.from_store=copy, and XDG_CACHE_HOME to a disk that is large enough"
        )
    messages.info(
        f"{store.url}: {needed:,} bytes, of which each batch fetches its own; {base} has {free:,} "
        "left (config.data.from_store)"
    )
    folder = _folder(directory)
    described = {name: size for name, size in sizes.items() if not re.fullmatch(SHARD, name)}
    storage.renew(store, described, folder, (RECORD, prepared_files.SPLITS))
    safe_files.check_tree(folder, storage.local_folder(data.data_dir))
    _sets[folder] = _Set(store, sizes)
    return folder


def read_parts(folder, shard, choose):
    """Reads parts of a shard on disk or in a store. -> (the shard's bytes, [bytes] of the parts).

    Args:
        folder: as for `shards_of`.
        shard: path that prepared_files.read_shards gives.
        choose: bytes of the shard -> [(start, end)].
    """
    if folder in _sets:
        name = os.path.basename(shard)
        size = _size(_sets[folder], name)
        return size, _sets[folder].store.read_parts([(name, *part) for part in choose(size)])
    with safe_files.open_to_read(shard) as file:
        size = os.fstat(file.fileno()).st_size
        return size, [os.pread(file.fileno(), end - start, start) for start, end in choose(size)]


def shards_of(folder, found, most):
    """The shards of a split, on disk or in a store.

    Args:
        folder: of the prepared data set, or of its descriptions.
        found: [(path, number of records)] as prepared_files.read_shards gives.
        most: bytes of a record's arrays.
    """
    if folder in _sets:
        return StreamedShards(_sets[folder], found, most)
    return shards.Shards(found, most)


class StreamedShards:
    """As `shards.Shards`, of files in a store.

    Raises:
        DataError: as `Store.read_parts`; or a shard is not in the store.
    """

    def __init__(self, of, found, most):
        self._store = of.store
        names = [(os.path.basename(path), count) for path, count in found]
        self._files = [(name, _size(of, name), count) for name, count in names]
        self._most = most + shards.STRINGS
        self._opened = {}  # {number: (parts of the file, where records begin and the last ends)}

    def shown(self, number):
        """A shard's url, for messages."""
        return f"{self._store.url}/{self._files[number][0]}"

    def was_opened(self, number):
        """Whether a shard could be opened."""
        return number in self._opened

    def read(self, wanted):
        """As `Shards.read`; all that is wanted is asked for together."""
        self._open([number for number in wanted if number not in self._opened])
        ranges = {number: self._ranges(number, wanted[number]) for number in wanted}
        parts = self._parts(ranges)
        return {number: self._records(number, wanted[number], parts[number]) for number in wanted}

    def _records(self, number, positions, parts):
        _, size, count = self._files[number]
        frame, places = self._opened[number]
        with _in_memory(size, frame + parts) as file:
            for position in set(positions):
                shards.check_record(file.fileno(), places[position], self._most)
            return shards.reader_of(f"/proc/self/fd/{file.fileno()}", count).read(positions)

    def _ranges(self, number, positions):
        """[(start, end)] of the records; neighbours are one range."""
        places, ranges = self._opened[number][1], []
        for position in sorted(set(positions)):
            start, end = places[position : position + 2]
            if not start < end <= start + self._most + self._most // 1024 + shards.BLOCK:
                raise ValueError("its footer is damaged")
            if ranges and ranges[-1][1] == start:
                start, _ = ranges.pop()
            ranges.append((start, end))
        return ranges

    def _open(self, numbers):
        """Gets the places of the records of these shards."""
        ends = self._parts({n: [(0, HEAD), (self._last(n), self._last(n) + ENDS)] for n in numbers})
        footers = {}
        for number in numbers:
            _, size, count = self._files[number]
            with _looked_at(size, ends[number]) as file:
                start = shards.footer_place(file.fileno())
            end = start + HEAD + 1 + shards.footer_size(count)
            end += shards.BLOCK_HEADER * (end - start) // shards.BLOCK
            footers[number] = [(start, min(end, self._last(number)))]
        found = self._parts(footers)
        for number in numbers:
            _, size, count = self._files[number]
            parts = ends[number] + found[number]
            parts = [(place, content.rstrip(b"\0")) for place, content in parts]
            with _looked_at(size, parts) as file:
                places = shards.places_of(file.fileno(), count)
            self._opened[number] = parts, [*places, footers[number][0][0]]

    def _last(self, number):
        """Where a shard's last block begins."""
        return max(self._files[number][1] - shards.BLOCK, 0)

    def _parts(self, ranges):
        """{number: [(start, end)]} -> {number: [(start, bytes)]}, asked for together.

        What a damaged footer places beyond the end of the file is left out.
        """
        inside = {
            number: [(start, min(end, self._files[number][1])) for start, end in parts]
            for number, parts in ranges.items()
        }
        inside = {n: [part for part in parts if part[0] < part[1]] for n, parts in inside.items()}
        asked = [(self._files[n][0], *part) for n, parts in inside.items() for part in parts]
        contents = iter(self._store.read_parts(asked))
        return {n: [(start, next(contents)) for start, _ in parts] for n, parts in inside.items()}


def _size(of, name):
    if name not in of.sizes:
        raise DataError(f"{of.store.url} lacks {name}: prepare the data there again")
    return of.sizes[name]


@contextlib.contextmanager
def _in_memory(size, parts):
    """A file of so many bytes that has nothing but these parts, [(place, bytes)]."""
    with os.fdopen(os.memfd_create("shard"), "w+b") as file:
        file.truncate(size)
        for place, content in parts:
            file.seek(place)
            file.write(content)
        file.flush()
        yield file


@contextlib.contextmanager
def _looked_at(size, parts):
    """As `_in_memory`, for the search for a footer."""
    try:
        with _in_memory(size, parts) as file:
            yield file
    except (LookupError, TypeError):
        raise ValueError("its footer is damaged") from None
