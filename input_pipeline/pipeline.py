"""Batches of image pairs from a prepared data set, for training and evaluation.

Throughout, `data` is config.data. Every function prepares the embedded sample named `data.sample`
first where it is not prepared yet; on many hosts the others wait for the one that does.

A pair is a mask, "source", and the CT slice to make from it, "target": uint8 [b, S, S, 1] both.
Casting and scaling to [-1, 1] are left to the device: this is a quarter of the bytes to send there.
"""

import csv
import itertools
import json
import os
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from input_pipeline import augment, memory, order
from input_pipeline.prepare import options_of, prepare, prepared_directory
from input_pipeline.safe_io import DataError
from input_pipeline.tf_cpu import tf

import tensorflow_datasets as tfds  # isort: skip  after tf_cpu, which keeps it off the GPU

SPLITS = ("train", "validation", "test")
CACHES = ("none", "host", "device")
SAMPLES = Path(__file__).parent / "samples"
THREADS = min(16, os.cpu_count() or 1)
CHUNK = 64  # examples that fill a cache at a time


class Example(NamedTuple):
    patient: str
    slice_index: int
    label: str
    file_name: str  # relative to the source folder
    spacing_mm: tuple  # between slices, rows and columns as stored; 0 where unknown


def ensure_prepared(data):
    """Returns the directory of the prepared data set; prepares data.sample there if need be.

    Every host may call it at once: one prepares and the others wait, be their disks shared or not.

    Raises:
        DataError: not prepared and no sample, with the command to run; or no such sample.
    """
    options = options_of(data)
    directory = prepared_directory(data.dataset, data.data_dir, **options)
    if directory.exists():
        return directory
    if not data.sample:
        raise DataError(
            f"{directory} does not exist: run python -m launch.prepare --source=DIR with the same "
            "--config and --config.data.…, where DIR holds the source files"
        )
    if not (SAMPLES / data.sample).is_dir():
        raise DataError(f'config.data.sample: there is no "{data.sample}" in {SAMPLES}')
    print(f'preparing the embedded sample "{data.sample}"', flush=True)
    return prepare(data.dataset, SAMPLES / data.sample, data.data_dir, wait=True, **options)


def num_examples(data, split):
    """Number of examples of "train", "validation" or "test"."""
    directory = ensure_prepared(data)
    _check_split(split)
    record = json.loads((directory / "preparation.json").read_text())
    return record["splits"][split]["examples"]


def examples(data, split):
    """A list of Example, in record order: entry i describes the example with index i."""
    directory = ensure_prepared(data)
    _check_split(split)
    table = []
    for shard in tfds.builder_from_directory(directory).info.splits[split].filepaths:
        with open(f"{shard}.csv") as file:
            for row in csv.DictReader(file):
                index, spacing = int(row["slice_index"]), map(float, row["spacing_mm"].split())
                label, name = row["class"], row["file_name"]
                table.append(Example(row["patient"], index, label, name, tuple(spacing)))
    return table


def check_training(data):
    """Raises what `train_batches` and `train_set` would, at once and before anything is written.

    Raises:
        DataError: not prepared; batch_size exceeds the examples; load_size is less than
            image_size; no such cache, or it does not fit into memory.
    """
    records = _Records(data, "train")
    order.steps_per_epoch(len(records), data.batch_size)
    if 0 != data.load_size < data.image_size:
        raise DataError(
            f"config.data.load_size is {data.load_size}: use 0, or {data.image_size} or more"
        )
    if data.cache not in CACHES:
        raise DataError(f'config.data.cache is "{data.cache}": use one of {", ".join(CACHES)}')
    if data.cache != "none":
        memory.check_fits(_cache_bytes(records, data))


def train_batches(data, start_step, stop_step, host=0, hosts=1):
    """Batches of steps [start_step, stop_step), endlessly reshuffled.

    The global batch of a step is a function of data.seed and the step alone, for any number of
    hosts, wherever the run starts and whatever data.cache is. Starting takes the same time at any
    step, once the cache is filled. At most THREADS + 3 batches are in memory at a time.

    Returns:
        Iterator of {"source", "target": uint8 [b, S, S, 1], "index": int64 [b]}, which are this
        host's b = batch_size / hosts consecutive rows of the global batch. With data.cache
        "device", of the numbers with which a step gathers the same images from `train_set`:
        {"index", "offset": int32 [b, 2], "flip": bool [b]}; see `augment.draw`.

    Raises:
        DataError: as `check_training`; batch_size is not a multiple of hosts; while iterating, a
            record that cannot be read.
    """
    check_training(data)
    images = _Records(data, "train")
    if data.cache == "host":
        images = _Cached(train_set(data))
    return stream(images, data, start_step, stop_step, host, hosts)


def train_set(data):
    """All training images, resized to data.load_size if that is set, for a cache.

    Returns:
        {"source", "target"}: uint8 [n, L, L, 1], in record order.

    Raises:
        DataError: they do not fit into memory, or a record cannot be read.
    """
    records = _Records(data, "train")
    memory.check_fits(_cache_bytes(records, data))
    filled = {}
    for start, part in zip(itertools.count(0, CHUNK), _enlarged(records, data, CHUNK)):
        for key, images in part.items():
            if key not in filled:
                filled[key] = np.empty((len(records), *images.shape[1:]), images.dtype)
            filled[key][start : start + CHUNK] = images[: len(records) - start]
    return filled


def stream(images, data, start_step, stop_step, host=0, hosts=1):
    """`train_batches`, of images from anywhere.

    Args:
        images: has a length; load(index, a tensor [b]) -> {"source", "target"}, a batch of stored
            images or of enlarged ones; and `error`, a DataError to raise for TensorFlow's.
    """
    rows = _rows(data.batch_size, host, hosts)

    def load(step):
        index = order.global_indices(data.seed, step, data.batch_size, len(images))[rows]
        place = augment.draw(
            rows,
            seed=data.seed,
            step=step,
            batch_size=data.batch_size,
            size=data.image_size,
            flip=data.flip,
            load_size=data.load_size,
        )
        if data.cache == "device":
            return {"index": index} | place
        pair = images.load(index)
        if data.flip or data.load_size:
            pair = augment.crop(pair, **place, size=data.image_size, load_size=data.load_size)
        return pair | {"index": index}

    return _iterate(images, tf.data.Dataset.range(start_step, stop_step), load)


def eval_batches(data, split, host=0, hosts=1, indices=None):
    """Batches with each example of a split once over all hosts, in record order.

    The last global batch is padded with copies of the last example, with weight 0 and index -1.
    All hosts get the same number of batches.

    Args:
        indices: the examples to give instead, in this order.

    Returns:
        Iterator of what `train_batches` gives, unaugmented, and "weight": float32 [b].

    Raises:
        DataError: as `train_batches`, but batch_size may exceed the examples.
    """
    records = _Records(data, split)
    rows = _rows(data.batch_size, host, hosts)
    wanted = np.arange(len(records)) if indices is None else np.asarray(indices, np.int64)

    def load(batch):
        place = batch * data.batch_size + tf.range(data.batch_size, dtype=tf.int64)[rows]
        real = place < len(wanted)
        index = tf.gather(wanted, tf.minimum(place, len(wanted) - 1))
        pair = records.load(index)
        return pair | {"index": tf.where(real, index, -1), "weight": tf.cast(real, tf.float32)}

    return _iterate(records, tf.data.Dataset.range(-(-len(wanted) // data.batch_size)), load)


def _check_split(split):
    if split not in SPLITS:
        raise DataError(f'there is no split "{split}": use one of {", ".join(SPLITS)}')


def _rows(batch_size, host, hosts):
    if batch_size % hosts:
        raise DataError(
            f"config.data.batch_size is {batch_size}, not a multiple of the {hosts} hosts"
        )
    return slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)


def _enlarged(records, data, size):
    """Batches of all images in record order, resized to load_size; the last repeats an example."""

    def load(start):
        index = tf.minimum(start + tf.range(size, dtype=tf.int64), len(records) - 1)
        return augment.enlarge(records.load(index), data.load_size)

    return _iterate(records, tf.data.Dataset.range(0, len(records), size), load)


def _cache_bytes(records, data):
    example = next(_enlarged(records, data, 1))
    return len(records) * sum(images.nbytes for images in example.values())


class _Cached:
    """The images of `train_set`, gathered in memory."""

    error = None

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images["source"])

    def load(self, index):
        """{"source", "target"}: uint8 [b, L, L, 1], of index, int64 [b]."""

        # Not tf.gather, to which the images would be a copy.
        def gather(index):
            return [images[index] for images in self._images.values()]

        types = [images.dtype for images in self._images.values()]
        batch = tf.numpy_function(gather, [index], types, stateful=False)
        return {
            key: tf.ensure_shape(images, [index.shape[0], *self._images[key].shape[1:]])
            for key, images in zip(self._images, batch, strict=True)
        }


class _Records:
    """Random access to the records of a split, a batch at a time."""

    def __init__(self, data, split):
        _check_split(split)
        self._size = data.image_size
        info = tfds.builder_from_directory(ensure_prepared(data)).info.splits[split]
        self._paths = [os.fspath(path) for path in info.filepaths]
        self._starts = np.cumsum([0, *info.shard_lengths])
        self._readers = {}
        self._lock = threading.Lock()
        self.error = None  # DataError of a failed read: TensorFlow passes its text on only

    def __len__(self):
        return int(self._starts[-1])

    def load(self, index):
        """{"source", "target"}: uint8 [b, S, S, 1], of index, int64 [b]."""
        serialized = tf.numpy_function(self._read, [index], tf.string, stateful=False)
        serialized = tf.ensure_shape(serialized, index.shape)
        feature = tf.io.FixedLenFeature([], tf.string)
        features = tf.io.parse_example(serialized, {"mask": feature, "image": feature})
        shape = [index.shape[0], self._size, self._size, 1]
        return {
            key: tf.reshape(tf.io.decode_raw(features[name], tf.uint8), shape)
            for key, name in (("source", "mask"), ("target", "image"))
        }

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


def _iterate(records, steps, load):
    """Maps `load` over a tf.data.Dataset of scalars, in order: an iterator of dicts of arrays.

    Reading begins now, so that the first batch is there when the step has been compiled.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_warm_start = True
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    batches = steps.map(load, num_parallel_calls=THREADS).prefetch(2).with_options(options)
    iterator = batches.as_numpy_iterator()

    def read():
        try:
            yield from iterator
        except tf.errors.OpError as error:
            raise (records.error or error) from None

    return read()
