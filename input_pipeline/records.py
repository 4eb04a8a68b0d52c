"""Random access to prepared records."""

import os
import threading

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from input_pipeline.safe_io import DataError
from input_pipeline.tf_cpu import tf

import tensorflow_datasets as tfds  # isort: skip  after tf_cpu, which keeps it off the GPU


class Records:
    """Random access to the records of a split, a batch at a time.

    Args:
        directory: of the prepared data set.
        data: config.data, which says what is a source and what a target, and of which type.
        split: "train", "validation" or "test".

    Raises:
        DataError: the types or channels are others than data says; on loading, a record cannot be
            read.
    """

    def __init__(self, directory, data, split):
        info = tfds.builder_from_directory(directory).info
        self._features = {"source": data.source, "target": data.target}
        self._stored = {}  # shape and type by feature
        for key, name in self._features.items():
            feature = info.features[name]
            self._stored[name] = feature.shape, tf.as_dtype(feature.np_dtype)
            found = np.dtype(feature.np_dtype).name, feature.shape[-1]
            wanted = data[f"{key}_type"], data.source_channels if key == "source" else 1
            if found != wanted:
                raise DataError(
                    f"config.data.{key}_type and the channels are {wanted[0]} and {wanted[1]}, but "
                    f"the prepared {name} is {found[0]} with {found[1]}: correct the config"
                )
        shards = info.splits[split]
        self._paths = [os.fspath(path) for path in shards.filepaths]
        self._starts = np.cumsum([0, *shards.shard_lengths])
        self._readers = {}
        self._lock = threading.Lock()
        self.error = None  # DataError of a failed read: TensorFlow passes its text on only

    def __len__(self):
        return int(self._starts[-1])

    def load(self, index):
        """{"source", "target"}: [m, S, S, c] of their stored types, of index, int64 [m]."""
        serialized = tf.numpy_function(self._read, [index], tf.string, stateful=False)
        serialized = tf.ensure_shape(serialized, index.shape)
        feature = tf.io.FixedLenFeature([], tf.string)
        features = tf.io.parse_example(serialized, {name: feature for name in self._stored})

        def decode(name):
            shape, dtype = self._stored[name]
            return tf.reshape(tf.io.decode_raw(features[name], dtype), [index.shape[0], *shape])

        return {key: decode(name) for key, name in self._features.items()}

    def _read(self, index):
        shards = np.searchsorted(self._starts, index, side="right") - 1
        records = np.empty(len(index), object)
        for shard in np.unique(shards):
            places = np.flatnonzero(shards == shard)
            positions = (index[places] - self._starts[shard]).tolist()
            try:
                found = self._reader(shard).read(positions)
            except Exception as error:
                self.error = self._corrupt(shard, positions, error)
                raise self.error from error
            for place, record in zip(places, found, strict=True):
                records[place] = record
        return records

    def _reader(self, shard):
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(
                    self._paths[shard],
                    options="readahead_buffer_size:0,max_parallelism:0",  # for random access
                    file_reader_buffer_size=32768,
                )
            return self._readers[shard]

    def _corrupt(self, shard, positions, error):
        """The DataError for a failed read of these positions, naming the first bad one."""
        what = "cannot be opened"
        for position in positions:
            try:
                self._reader(shard).read([position])
            except Exception as first:
                what, error = f"is corrupt at record {position}", first
                break
        text = " ".join(str(error).split())[:200]
        return DataError(
            f"{self._paths[shard]} {what} ({text}): delete the folder, and prepare it again"
        )
