"""Random access to prepared records, on disk or in memory.

config.data.on_error decides what happens if a record cannot be read: "raise" ends the run, "skip"
takes the next readable record in its place. The replacement depends on the files alone, so it is
the same for every host, batch and cache.
"""

import logging
import os
import sys
import threading

import numpy as np
from tqdm import tqdm

from input_pipeline import prepared_files, streamed
from input_pipeline.prepared import examples
from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import DataError
from jax_pix2pix.safety.shown import shown

ON_ERROR = ("raise", "skip")
_logger = logging.getLogger(__name__)
_logger.addHandler(logging.NullHandler())  # tqdm writes to the terminal
_reported = set()  # warnings that this process has given, so that no validation repeats them


class Records:
    """Random access to the records of a split, a batch at a time.

    Args:
        directory: the folder of the prepared data set.
        data: config.data, which names the arrays of source and target and their types.
        split: "train", "validation" or "test".

    Raises:
        DataError: an array is missing, or has another type or other channels than data says. A
            failed read does not raise: see `error`.
    """

    def __init__(self, directory, data, split):
        arrays = prepared_files.read_arrays(directory)
        self._features = {"source": data.source, "target": data.target}
        self._stored = {}  # {array's name: Array}
        for key, name in self._features.items():
            if name not in arrays:
                raise DataError(f'config.data.{key} is "{name}": use {" or ".join(sorted(arrays))}')
            self._stored[name] = arrays[name]
            found = arrays[name].dtype.name, arrays[name].shape[-1]
            wanted = data[f"{key}_type"], data.source_channels if key == "source" else 1
            if found != wanted:
                raise DataError(
                    f"config.data.{key}_type and the channels are {wanted[0]} and {wanted[1]}, but "
                    f"the prepared {name} is {found[0]} with {found[1]}: correct the config"
                )
            sides = (data.stored_size, data.stored_size)
            if arrays[name].shape[:2] != sides:
                raise DataError(
                    f"{directory}/features.json: {name} is of {arrays[name].shape}, and "
                    f"config.data.stored_size is {data.stored_size}: delete the folder and prepare "
                    "it again"
                )
        record_bytes = sum(prepared_files.size(array) for array in arrays.values())
        shards = prepared_files.read_shards(directory, split)
        self._shards = streamed.shards_of(directory, shards, record_bytes)
        self._data, self._split = data, split
        self._starts = np.cumsum([0, *(length for _, length in shards)])
        self._instead = {}  # {record that cannot be read: its replacement}
        self._lock = threading.RLock()
        # The DataError of a failed read, for the caller that iterates to raise: TensorFlow prints
        # many lines about an exception on its threads. The failed read gives zeros.
        self.error = None

    def __len__(self):
        return int(self._starts[-1])

    def load(self, index):
        """Loads records `index`, int64 [m]. -> {"source", "target"}: [m, S, S, c], as stored."""
        return self.load_and_tell(index)[0]

    def load_and_tell(self, index):
        """-> (as `load`, bool [m]: whether each is the record itself and no replacement)."""
        types = [*(array.dtype for array in self._stored.values()), tf.bool]
        *images, real = tf.numpy_function(self._read, [index], types, stateful=False)
        images = {
            name: tf.ensure_shape(x, [*index.shape, *self._stored[name].shape])
            for name, x in zip(self._stored, images, strict=True)
        }
        batch = {key: images[name] for key, name in self._features.items()}
        return batch, tf.ensure_shape(real, index.shape)

    def _read(self, index):
        try:
            return *self._decoded(index), np.ones(len(index), bool)
        except DataError as refused:  # by a store, whose records may all be sound
            self.error = refused
            return *self._zeros(len(index)), np.zeros(len(index), bool)
        except Exception as error:
            try:
                if self._data.on_error != "skip":
                    raise self._corrupt(index, error)
                index = index.tolist()
                instead = [self._readable(number) for number in index]
                return *self._decoded(np.array(instead)), np.equal(index, instead)
            except DataError as refused:
                self.error = refused
                return *self._zeros(len(index)), np.zeros(len(index), bool)

    def _zeros(self, count):
        return [np.zeros((count, *shape), dtype) for shape, dtype in self._stored.values()]

    def _decoded(self, index):
        """The stored arrays of records, [m, *shape] each, in the order of `_stored`.

        Decoding is not part of TensorFlow's graph, whose errors name no record.
        """
        decoded = [np.empty((len(index), *shape), dtype) for shape, dtype in self._stored.values()]
        for place, record in enumerate(self._serialized(index)):
            features = tf.train.Example.FromString(record).features.feature
            for name, images in zip(self._stored, decoded, strict=True):
                content = b"".join(features[name].bytes_list.value)
                if len(content) != images[place].nbytes:
                    raise ValueError(
                        f"its {name} has {len(content)} bytes and not {images[place].nbytes}"
                    )
                images[place] = np.frombuffer(content, images.dtype).reshape(images.shape[1:])
        return decoded

    def _serialized(self, index):
        """The serialized records, as stored: bytes [m]."""
        shards = np.searchsorted(self._starts, index, side="right") - 1
        places = {shard: np.flatnonzero(shards == shard) for shard in np.unique(shards).tolist()}
        found = self._shards.read(
            {shard: (index[at] - self._starts[shard]).tolist() for shard, at in places.items()}
        )
        records = np.empty(len(index), object)
        for shard, at in places.items():
            for place, record in zip(at, found[shard], strict=True):
                records[place] = record
        return records

    def _corrupt(self, index, error):
        """The DataError for a failed read of these records, naming the first bad one."""
        number = int(index[0])
        for candidate in index.tolist():
            if first := self._failure(candidate):
                number, error = candidate, first
                break
        return DataError(
            f"{self._called(number)} cannot be read ({_in_short(error)}): delete the folder and "
            'prepare it again, or set config.data.on_error to "skip"'
        )

    def _failure(self, number):
        """Why a record cannot be read, or None."""
        try:
            self._decoded(np.array([number]))
        except DataError:
            raise
        except Exception as error:
            return error

    def _readable(self, number):
        """The first readable record from this one on; after the last comes the first."""
        with self._lock:
            if number not in self._instead:
                failed = []
                for candidate in (*range(number, len(self)), *range(number)):
                    candidate = self._instead.get(candidate, candidate)
                    error = self._failure(candidate)
                    if error is None:
                        break
                    failed.append((candidate, error))
                else:
                    _, error = failed[0]
                    folder = os.path.dirname(self._shards.shown(0))
                    raise DataError(
                        f"{folder} holds no record of {self._split} that "
                        f"can be read ({_in_short(error)}): delete the folder and prepare it again"
                    )
                for one, error in failed:
                    self._instead[one] = candidate
                    _report(
                        f"{self._called(one)} cannot be read ({_in_short(error)}): training sees "
                        f"{self._called(candidate)} in its place, and no score counts it"
                    )
            return self._instead.get(number, number)

    def _called(self, number):
        """A record in words, or all records of its file if that could not be opened."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        first, stop = self._starts[shard : shard + 2]
        path, table = self._shards.shown(shard), examples(self._data, self._split)
        if not self._shards.was_opened(shard):
            patients = dict.fromkeys(example.patient for example in table[first:stop])
            named = _in_short(", ".join(patients), 80)
            return f"{path} with its {stop - first} records, of patients {named},"
        example = table[number]
        return (
            f"{path}, record {number - first}, which is patient {_in_short(example.patient)}, "
            f"slice {example.slice_index},"
        )


def _report(text):
    if text not in _reported:
        _reported.add(text)
        tqdm.write(f"warning: {shown(text)}", file=sys.stderr)  # above a progress bar
        _logger.warning("%s", text)  # to the log of a process that trains


def _in_short(text, most=200):
    return " ".join(str(text).split())[:most]


class Cached:
    """Slices in memory, {"source", "target": [n, L, L, c]}, with the `load` of Records."""

    error = None

    def __init__(self, images):
        self._images = images

    def load(self, index):
        """Loads the slices `index`, int64 [m]. -> {"source", "target"}: [m, L, L, c]."""

        # tf.gather would copy the images.
        def gather(index):
            return [images[index] for images in self._images.values()]

        types = [images.dtype for images in self._images.values()]
        batch = tf.numpy_function(gather, [index], types, stateful=False)
        return {
            key: tf.ensure_shape(images, [index.shape[0], *self._images[key].shape[1:]])
            for key, images in zip(self._images, batch, strict=True)
        }
