"""What a saved state claims of itself, looked at before TensorStore reads it.

A checkpoint may be somebody else's. Its arrays are in an OCDBT database, whose index says where
each key's bytes are, and for each array a .zarray, which says how large its chunks are. TensorStore
takes the memory that they ask for; a compressed index of kilobytes can ask for all there is. Keys
that lead out of the folder, and addresses, are refused by TensorStore itself.
"""

import itertools
import json
import math
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from jax_pix2pix.safety import safe_files

WIDEST = 8  # bytes of a number, as stored
SLACK = 2**26  # bytes of a state's files beside its numbers
MAX_ZARRAY = 2**12  # bytes; ours have some 170
# A node of the index: one of three magic numbers, its length, version 0 and compression 1 (zstd).
_NODE = re.compile(rb"\x0c\xdb(?:\x20\xde|\x3a\x2a|\x12\x34)")
_BEGINNING = b"\x00\x01\x28\xb5\x2f\xfd"
_CHECKSUM = 4  # bytes at the end of a node
SMALLEST = 12 + len(_BEGINNING) + _CHECKSUM  # bytes of a node
# Blocks of zstd, 128 KiB at most: a node of 64 MiB, which has room for a million chunks.
MAX_BLOCKS = 512
_PART = 2**24  # bytes to search at a time
MAX_CHUNKS = 2**14  # of an array: there is one for each device with a part of it


def by_name(tree):
    """{dotted name: leaf}; attributes and keys are named alike."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def check(folder, abstract):
    """Checks that reading a state takes no more memory than its arrays and their files.

    Args:
        folder: of the state.
        abstract: pytree of what has a shape and a dtype, as it is to be restored.

    Raises:
        ValueError: names the file or the array that is not as it would be saved here.
        OSError: a file cannot be read.
    """
    arrays = by_name(abstract)
    safe_files.check_tree(folder)
    _check_files(folder, SLACK + WIDEST * sum(math.prod(x.shape) for x in arrays.values()))
    index = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    values = tensorstore.KvStore.open(index).result()
    for name, array in arrays.items():
        key = f"{name}/.zarray"
        _check_length(values, key, MAX_ZARRAY)
        zarray = values.read(key).result()
        if zarray.state == "missing":
            raise ValueError(f"{name} is not there")
        chunks, itemsize = _layout(name, zarray.value, array)
        numbers = (range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True))
        most = 2 * itemsize * math.prod(chunks) + MAX_ZARRAY  # zstd adds a thousandth at most
        for place in itertools.product(*numbers):
            _check_length(values, f"{name}/{'.'.join(map(str, place)) or 0}", most)


def _check_files(folder, most):
    """Checks sizes and, in files that Orbax reads as JSON, the form."""
    total = 0
    for root, _, names in os.walk(folder):
        for path in (os.path.join(root, name) for name in names):
            total += os.lstat(path).st_size
            if total > most:
                raise ValueError(f"its files have more than the {most} bytes that it needs")
            described = os.path.relpath(path, folder)
            if described in ("_METADATA", "_sharding") or described.startswith("array_metadatas/"):
                _check_json(path, folder)
            else:
                with safe_files.open_to_read(path, folder) as file:
                    _check_nodes(path, file.fileno())


def _check_json(path, folder):
    try:
        content = safe_files.read_json(path, folder)
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON") from None
    if os.path.basename(path) == "_METADATA":
        for field, ours in (("use_ocdbt", True), ("use_zarr3", False)):
            if not isinstance(content, dict) or content.get(field) is not ours:
                raise ValueError(f"{path} does not say {field}={json.dumps(ours)}")


def _check_nodes(path, descriptor):
    """Finds the nodes of the index in a file, wherever they are, and bounds what they unpack to."""
    size = os.fstat(descriptor).st_size
    for start in range(0, size, _PART):
        part = os.pread(descriptor, _PART + 3, start)  # a magic number may lie across the end
        for match in _NODE.finditer(part):
            _check_node(path, descriptor, start + match.start(), size)


def _check_node(path, descriptor, first, size):
    length = int.from_bytes(os.pread(descriptor, 8, first + 4), "little")
    if not SMALLEST <= length <= size - first:
        return  # numbers that look like a node, which would end within its file
    end = first + length - _CHECKSUM
    if _end_of_frame(descriptor, first + 12, end) != end:
        raise ValueError(f"{path} has an index at byte {first} that is not as it is written here")


def _end_of_frame(descriptor, first, end):
    """Goes through the blocks of a zstd frame without unpacking them (RFC 8878).

    -> the byte after it; or None if it is not as in our indices, or has too many blocks.
    """
    beginning = os.pread(descriptor, len(_BEGINNING) + 1, first)
    if not beginning.startswith(_BEGINNING):
        return None
    flags = beginning[-1]
    whole, of_size, of_dictionary = flags >> 5 & 1, flags >> 6, (0, 1, 2, 4)[flags & 3]
    place = first + len(beginning) + (not whole) + of_dictionary + (whole, 2, 4, 8)[of_size]
    for _ in range(MAX_BLOCKS):
        header = int.from_bytes(os.pread(descriptor, 3, place), "little")
        repeats_a_byte = header >> 1 & 3 == 1
        place += 3 + (1 if repeats_a_byte else header >> 3)
        if place > end:
            return None
        if header & 1:  # the last
            return place + 4 * (flags >> 2 & 1)
    return None


def _check_length(values, key, most):
    try:
        longer = values.read(key, byte_range=slice(most, most + 1)).result().value
    except ValueError as error:
        if "OUT_OF_RANGE" in str(error):
            return
        raise
    if longer:
        raise ValueError(f"{key} has more than {most} bytes")


def _layout(name, zarray, array):
    """Checks a .zarray against the array. -> (shape of a chunk, bytes of a number)."""
    try:
        found = json.loads(zarray)
        theirs, chunks = found.pop("shape"), found.pop("chunks")
        kind, compressor = found.pop("dtype"), found.pop("compressor") or {"id": "zstd"}
        if not re.fullmatch(r"[<|][biuf][1248]|bfloat16", kind) or compressor["id"] != "zstd":
            raise ValueError(kind)
        ours = {"dimension_separator": ".", "fill_value": None, "filters": None, "order": "C"}
        if found != ours | {"zarr_format": 2}:
            raise ValueError(found)
        dtype = jnp.dtype(kind)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{name} is not stored as arrays are here") from None
    if theirs != list(array.shape):
        raise ValueError(f"{name} has the shape {theirs} there and {list(array.shape)} here")
    # Orbax casts between any types, which is right only between precisions.
    if jnp.issubdtype(dtype, jnp.inexact) != jnp.issubdtype(array.dtype, jnp.inexact):
        raise ValueError(f"{name} is {dtype} there and {np.dtype(array.dtype)} here")
    fits = isinstance(chunks, list) and len(chunks) == len(theirs)
    fits = fits and all(type(c) is int and 0 < c <= n for c, n in zip(chunks, theirs, strict=True))
    if not fits or math.prod(theirs) > MAX_CHUNKS * math.prod(chunks):
        raise ValueError(f"{name} has chunks of {chunks}, which do not fit its shape {theirs}")
    return chunks, dtype.itemsize
