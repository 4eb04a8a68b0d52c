"""A state's arrays in files that each process writes alone, for stores; no process needs the whole.

`0001_0000.bin`, of process 1, holds pieces of arrays: numbers in C order, little-endian, one piece
after another. `0001.json` says what they are: {array: {"shape", "dtype", "pieces": [[file, first
byte, place of the piece in each dimension, its shape, CRC-32]]}}. Nothing is compressed, so reading
takes the memory of the config's arrays and no more.
"""

import json
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.runs.stored_state import by_name
from jax_pix2pix.safety import safe_files

FILE_BYTES = 2**28  # of a file, unless a single piece has more; as much is read at once
MAX_INDICES = 2**25  # bytes of those of all processes, each of which is also a JSON description
INDEX = re.compile(r"[0-9]{4,}\.json")


class DamagedError(ValueError):
    """A file is not as it was written; the text names it."""


class Piece(NamedTuple):
    """A part of an array that one file holds."""

    file: str
    first: int  # byte in the file
    start: tuple  # in each dimension
    shape: tuple
    checksum: int

    def bytes(self, dtype):
        return dtype.itemsize * math.prod(self.shape)


def held(state):
    """Copies what this process is to write: [(array's name, its shape, start, numbers)].

    Of equal copies on several devices one process writes one. The state may be donated afterwards.
    """
    found = []
    for name, array in by_name(state).items():
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                start, _ = _block(shard.index, array.shape)
                found.append((name, array.shape, start, np.array(shard.data, order="C")))
    return found


def files(found, process):
    """Makes the files of a process from `held`: iterator of (name, bytes), the index at last."""
    index = {}
    for number, group in enumerate(_grouped(found, lambda piece: piece[3].nbytes)):
        file, parts, first = f"{process:04d}_{number:04d}.bin", [], 0
        for name, shape, start, values in group:
            parts.append(values.tobytes())
            described = {"shape": shape, "dtype": str(values.dtype), "pieces": []}
            pieces = index.setdefault(name, described)["pieces"]
            pieces.append([file, first, start, values.shape, zlib.crc32(parts[-1])])
            first += values.nbytes
        yield file, b"".join(parts)
    yield f"{process:04d}.json", json.dumps(index).encode()


def indices(names):
    """Those of a state's files that are indices; none if it was not written by `files`."""
    return [name for name in names if INDEX.fullmatch(name)]


def check_indices(sizes):
    """The indices among {file: bytes}. Raises ValueError if they are too large to be read."""
    found = indices(sizes)
    if sum(sizes[name] for name in found) > MAX_INDICES:
        raise ValueError(f"its indices have more than {MAX_INDICES} bytes")
    return found


def read_indices(sizes, read):
    """The bytes of a state's indices; sizes: {file: bytes}, read: file -> bytes.

    Raises:
        ValueError: they have more than MAX_INDICES bytes together.
    """
    return [read(name) for name in check_indices(sizes)]


def are_in(folder):
    """Whether the folder of a state was written by `files`."""
    return os.path.isdir(folder) and bool(indices(os.listdir(folder)))


def restore(abstract, contents, sizes, fetch):
    """The arrays that this process holds of a state, from files that may be anybody's.

    Args:
        abstract: pytree of ShapeDtypeStruct with shardings: what is made, and where.
        contents: bytes of the indices of all processes that wrote it.
        sizes: {file: bytes}.
        fetch: [(file, first byte, last byte + 1)] -> [bytes].

    Raises:
        ValueError: names the array that is not stored as this config's would be.
        DamagedError: a piece does not hold what was written there.
    """
    arrays, stored = by_name(abstract), _merged(contents)
    if other := sorted(arrays.keys() ^ stored.keys()):
        raise ValueError(f"{other[0]} is only {'here' if other[0] in arrays else 'there'}")
    wanted = [(name, x, *_checked(name, x, stored[name], sizes)) for name, x in arrays.items()]
    made = {}
    for group in _grouped(wanted, lambda array: array[2].itemsize * math.prod(array[1].shape)):
        for name, array in _fetched(group, fetch):
            made[name] = array
    return jax.tree.unflatten(jax.tree.structure(abstract), [made[name] for name in arrays])


def restore_from_folder(folder, abstract):
    """As `restore`, from the folder of a state: a copy of a store's, made by hand."""
    sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    paths = {name: os.path.join(folder, name) for name in sizes}

    def fetch(ranges):
        parts = []
        for file, first, last in ranges:
            with safe_files.open_to_read(paths[file], folder) as opened:
                opened.seek(first)
                parts.append(opened.read(last - first))
        return parts

    def read(file):
        return safe_files.read(paths[file], safe_files.MAX_JSON, folder)

    return restore(abstract, read_indices(sizes, read), sizes, fetch)


def _grouped(items, size):
    """Consecutive items in lists of at most FILE_BYTES, or of one item."""
    group, total = [], 0
    for item in items:
        if group and total + size(item) > FILE_BYTES:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group


def _merged(contents):
    """{array: [what each index says of it]}."""
    stored: dict[str, list[Any]] = {}
    for content in contents:
        try:
            for name, described in json.loads(content).items():
                stored.setdefault(name, []).append(described)
        except (ValueError, AttributeError, RecursionError):
            raise ValueError("an index is no JSON of arrays") from None
    return stored


def _checked(name, array, described, sizes):
    """Compares what the indices say of an array with the config's. -> (dtype, [Piece])."""
    try:
        shapes = {tuple(one["shape"]) for one in described}
        kinds = {one["dtype"] for one in described}
        pieces = [_piece(*piece) for one in described for piece in one["pieces"]]
        (shape,), (kind,) = shapes, kinds
        if not re.fullmatch(r"bool|bfloat16|u?int\d\d?|float\d\d", kind):
            raise ValueError(kind)
        dtype = np.dtype(jnp.dtype(kind))
    except (ValueError, TypeError, LookupError):
        raise ValueError(f"{name} is not stored as arrays are here") from None
    if shape != array.shape:
        raise ValueError(f"{name} has the shape {shape} there and {array.shape} here")
    # Values are cast, which is right only between precisions.
    if jnp.issubdtype(dtype, jnp.inexact) != jnp.issubdtype(array.dtype, jnp.inexact):
        raise ValueError(f"{name} is {dtype} there and {np.dtype(array.dtype)} here")
    for piece in pieces:
        fits = len(piece.start) == len(piece.shape) == len(shape) and all(
            first + length <= n
            for first, length, n in zip(piece.start, piece.shape, shape, strict=True)
        )
        if not fits or piece.first + piece.bytes(dtype) > sizes.get(piece.file, -1):
            raise ValueError(f"{name} has a piece at {piece.start} that is in no file")
    if sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
        raise ValueError(f"{name} is not there as a whole")
    return dtype, pieces


def _piece(file, first, start, shape, checksum):
    numbers = (first, *start, *shape, checksum)
    if not isinstance(file, str) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("not a piece")
    return Piece(file, first, tuple(start), tuple(shape), checksum)


def _fetched(group, fetch):
    """Reads some arrays, of each what this process's devices hold. -> iterator of (name, array)."""
    blocks = {name: _blocks(array) for name, array, *_ in group}
    needed = [
        (name, piece, dtype)
        for name, _, dtype, pieces in group
        for piece in pieces
        if any(_overlap(piece, *block) is not None for block in blocks[name])
    ]
    ranges = [(piece.file, piece.first, piece.first + piece.bytes(d)) for _, piece, d in needed]
    read: dict[str, list[Any]] = {name: [] for name in blocks}
    for (name, piece, dtype), content in zip(needed, fetch(ranges), strict=True):
        if len(content) != piece.bytes(dtype) or zlib.crc32(content) != piece.checksum:
            raise DamagedError(f"{piece.file} does not hold what was written there")
        read[name].append((piece, np.frombuffer(content, dtype).reshape(piece.shape)))
    for name, array, dtype, _ in group:
        numbers = {block: _filled(name, block, read[name], dtype) for block in blocks[name]}
        yield name, _placed(array, numbers)


def _blocks(array):
    """What this process's devices hold of an array: {(start, shape)}."""
    parts = array.sharding.addressable_devices_indices_map(array.shape).values()
    return {_block(part, array.shape) for part in parts}


def _block(part, shape):
    """(start, shape) of a part, a tuple of slices."""
    ends = [one.indices(n)[:2] for one, n in zip(part, shape, strict=True)]
    return tuple(first for first, _ in ends), tuple(last - first for first, last in ends)


def _overlap(piece, start, shape):
    """Where a piece lies in a block and the block in the piece, as slices; None if they do not."""
    first = [max(a, b) for a, b in zip(piece.start, start, strict=True)]
    last = [
        min(a + n, b + m) for a, n, b, m in zip(piece.start, piece.shape, start, shape, strict=True)
    ]
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    return tuple(
        tuple(slice(a - offset, b - offset) for a, b, offset in zip(first, last, own, strict=True))
        for own in (start, piece.start)
    )


def _filled(name, block, pieces, dtype):
    """The numbers of a block."""
    numbers, found = np.empty(block[1], dtype), np.zeros(block[1], bool)
    for piece, values in pieces:
        if overlap := _overlap(piece, *block):
            here, there = overlap
            numbers[here], found[here] = values[there], True
    if not found.all():
        raise ValueError(f"{name} is not there as a whole")
    return numbers


def _placed(array, numbers):
    def part(index):
        return numbers[_block(index, array.shape)].astype(array.dtype, copy=False)

    return jax.make_array_from_callback(array.shape, array.sharding, part)
