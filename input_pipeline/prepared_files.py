"""A prepared folder's description of its records, as files of unknown origin. No TensorFlow.

TFDS writes features.json and dataset_info.json. When TFDS reads them, it imports any module that
they name, so a folder from elsewhere could run code. Here they are only data, and anything that
`builder.py` does not have written is refused.
"""

import csv
import itertools
import json
import math
import os
import re
from typing import NamedTuple

import numpy as np

from jax_pix2pix.config_fields import SIDE
from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.tables import records

SPLITS = "dataset_info.json"
MAX_BYTES = 2**20  # of a description; a shard has some 10 bytes there
MAX_TABLE_BYTES = 2**26  # of a shard's table; a record has some 100 bytes there
TYPES = ("uint8", "uint16", "int16")  # of arrays
MAX_ARRAYS, MAX_RECORD = 16, 2**30  # arrays and bytes of a record
MAX_SHARD = 2**18  # records: some 1000, and the crops of one volume
MAX_RECORDS = 10**7  # of a split: their tables take some 4 GB


class Array(NamedTuple):
    """An array of a record."""

    shape: tuple  # [S, S, channels]
    dtype: np.dtype


def size(array):
    """Bytes of an Array."""
    return math.prod(array.shape) * array.dtype.itemsize


class Example(NamedTuple):
    patient: str
    slice_index: int
    label: str
    file_name: str  # relative to the source folder
    spacing_mm: tuple  # between slices, rows and columns as stored; 0 where unknown


def read_arrays(directory):
    """The arrays of each record: {name: Array}.

    Raises:
        DataError: features.json is missing or damaged, or has features that no builder writes.
    """
    return read(directory / "features.json", "the features of prepared data", _arrays)


def read_shards(directory, split):
    """The shards of a split: a list of (path, number of records).

    Raises:
        DataError: dataset_info.json is missing or damaged, or has no such split.
    """

    def lengths(text):
        found = {part["name"]: part["shardLengths"] for part in json.loads(text)["splits"]}
        if set(map(str, found[split])) <= {"0"}:
            return []
        lengths = [_whole(length) for length in found[split]]
        if max(lengths) > MAX_SHARD or sum(lengths) > MAX_RECORDS:
            raise ValueError(
                f"a shard has {max(lengths)} records and a split {sum(lengths)}, above the limits "
                f"of {MAX_SHARD} and {MAX_RECORDS}"
            )
        return lengths

    found = read(directory / SPLITS, "the splits of prepared data", lengths)
    if not found:
        raise DataError(
            f"{directory} holds no example of the split {split}: use another split, or prepare the "
            "data with patients in it"
        )
    dataset = directory.parent.parent.name
    return [
        (f"{directory}/{dataset}-{split}.array_record-{i:05d}-of-{len(found):05d}", length)
        for i, length in enumerate(found)
    ]


def read_table(path, length):
    """Reads the table beside a shard of `length` records. -> list of Example, one for each.

    Raises:
        DataError: it is missing, damaged or too large.
    """

    def rows(text):
        found = [_example(row) for row in itertools.islice(records(text), length + 1)]
        if len(found) != length:
            more = "more than " if len(found) > length else ""
            raise ValueError(f"it has {more}{min(len(found), length)} rows, its shard {length}")
        return found

    return read(path, "the table of a shard", rows, MAX_TABLE_BYTES)


def read(path, kind, parse, limit=MAX_BYTES):
    """Returns parse(text) of a file in a prepared folder.

    Args:
        kind: what the file is, in words.
        limit: the most bytes that it may have.

    Raises:
        DataError: it cannot be read, is larger than the limit, or `parse` fails.
    """
    try:
        return parse(safe_files.read(path, limit, below=os.path.dirname(path)).decode())
    except KeyError as error:
        reason = f"it has no {error}"
    except OSError as error:
        reason = error.strerror
    except (ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
    raise DataError(
        f"{path} cannot be read as {kind} ({reason}): delete the folder and prepare it again"
    )


def _arrays(text):
    top = json.loads(text)
    features = top["featuresDict"]["features"]
    _check_class(top, "features_dict.FeaturesDict")
    for feature in features.values():
        _check_class(feature, "tensor_feature.Tensor", "text_feature.Text")
    arrays = {
        _name(name): _array(feature["tensor"])
        for name, feature in features.items()
        if feature.get("tensor", {}).get("encoding") == "bytes"
    }
    if len(arrays) > MAX_ARRAYS or sum(map(size, arrays.values())) > MAX_RECORD:
        raise ValueError(f"it has records above the limit of {MAX_RECORD} bytes")
    return arrays


def _check_class(feature, *known):
    if feature["pythonClassName"] not in [f"tensorflow_datasets.core.features.{x}" for x in known]:
        raise ValueError(f"it names the class {feature['pythonClassName']!a}")


def _name(text):
    if not re.fullmatch(r"\w+", text, re.ASCII):
        raise ValueError(f"it names a feature {text!a}")
    return text


def _array(tensor):
    shape = tuple(map(_whole, tensor["shape"]["dimensions"]))
    if len(shape) != 3 or max(shape) > SIDE:
        raise ValueError(f"it has an array of shape {shape}")
    if tensor["dtype"] not in TYPES:
        raise ValueError(f"it has an array of type {tensor['dtype']!a}")
    return Array(shape, np.dtype(tensor["dtype"]))


def _whole(number):
    """A number as int: these files have 64-bit numbers as text."""
    if not re.fullmatch("[1-9][0-9]{0,8}", str(number)):
        raise ValueError(f"it has {number!a} where a number of records or pixels belongs")
    return int(number)


def _example(row):
    spacing_mm = tuple(map(float, row["spacing_mm"].split()))
    index = int(row["slice_index"])
    if len(spacing_mm) != 3 or None in row or None in row.values():
        raise ValueError("a line is cut")
    if not all(map(math.isfinite, spacing_mm)) or abs(index) >= 2**62:
        raise ValueError("a number is out of range")
    return Example(row["patient"], index, row["class"], row["file_name"], spacing_mm)
