"""Batches of image pairs from a prepared data set, for training and evaluation.

Throughout, `data` is config.data. Every function prepares the embedded sample named `data.sample`
first where it is not prepared yet; on many hosts the others wait for the one that does.

A pair is a "source" and the "target" to make from it: stored images and masks, as data.source and
data.target name them, of stored integer types. Casting and scaling to [-1, 1] are left to the
device: uint8 is a quarter of the bytes to send there.
"""

import csv
import functools
import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import augment, memory, order
from input_pipeline.example_slices import evaluation_slices, training_slices
from input_pipeline.prepare import options_of, prepare, prepared_directory
from input_pipeline.records import Records
from input_pipeline.safe_io import DataError
from input_pipeline.tf_cpu import tf

import tensorflow_datasets as tfds  # isort: skip  after tf_cpu, which keeps it off the GPU

SPLITS = ("train", "validation", "test")
CACHES = ("none", "host", "device")
METHODS = {"image": "bilinear", "mask": "nearest"}  # of resizing: classes stay classes
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


def examples(data, split):
    """A list of Example, in record order: entry i describes the slice with index i."""
    _check_split(split)
    return _read_tables(ensure_prepared(data), split)


@functools.lru_cache(maxsize=2 * len(SPLITS))
def _read_tables(directory, split):
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
        DataError: not prepared; batch_size exceeds the examples; sizes that do not fit; no such
            cache, or it does not fit into memory.
    """
    records = _records(data, "train")
    order.steps_per_epoch(len(_training_slices(data)), data.batch_size)
    enlarged = data.load_size or data.image_size
    if enlarged < data.image_size:
        raise DataError(
            f"config.data.load_size is {data.load_size}: use 0, or {data.image_size} or more"
        )
    if data.patch_size > enlarged:
        raise DataError(f"config.data.patch_size is {data.patch_size}: use {enlarged} or less")
    if data.cache not in CACHES:
        raise DataError(f'config.data.cache is "{data.cache}": use one of {", ".join(CACHES)}')
    if data.cache != "none":
        memory.check_fits(_cache_bytes(records, data))


def num_training_examples(data):
    """How many different examples train_batches draws from: slices, or runs of data.depth."""
    return len(_training_slices(data))


def num_evaluation_examples(data, split):
    """How many examples eval_batches gives: slices, or runs of data.depth that cover them."""
    return len(evaluation_slices(examples(data, split), data.depth)[0])


def train_batches(data, start_step, stop_step, host=0, hosts=1):
    """Batches of steps [start_step, stop_step), endlessly reshuffled.

    The global batch of a step is a function of data.seed and the step alone, for any number of
    hosts, wherever the run starts and whatever data.cache is. Starting takes the same time at any
    step, once the cache is filled. At most THREADS + 3 batches are in memory at a time.

    Call `check_training` first, which refuses what cannot work.

    Returns:
        Iterator of {"source", "target": [b, P, P, c], "index": int64 [b]}, which are this host's
        b = batch_size / hosts consecutive rows of the global batch. With data.depth = d, images
        are [b, d, P, P, c] and "index", of slices, [b, d]. With data.cache "device", of the
        numbers with which a step gathers the same images from `train_set`: {"index", "offset":
        int32 [b, 2], "flip": bool [b]}; see `augment.draw`.

    Raises:
        DataError: batch_size is not a multiple of hosts; while iterating, a record that cannot be
            read.
    """
    images = _records(data, "train")
    if data.cache == "host":
        images = _Cached(train_set(data))
    return stream(images, data, start_step, stop_step, host, hosts)


def train_set(data):
    """All training slices, resized as augmentation wants them, for a cache.

    Returns:
        {"source", "target"}: [n, L, L, c] of their stored types, in record order.

    Raises:
        DataError: a record cannot be read.
    """
    records = _records(data, "train")
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
        images: has load(index, a tensor [m]) -> {"source", "target"}, slices as they are stored or
            as they are resized for a cache; and `error`, a DataError to raise for TensorFlow's.
    """
    rows = _rows(data.batch_size, host, hosts)
    slices = _training_slices(data)
    load_size = data.load_size or data.image_size
    size = data.patch_size or data.image_size

    def load(step):
        example = order.global_indices(data.seed, step, data.batch_size, len(slices))[rows]
        index = tf.gather(slices, example)
        place = augment.draw(
            rows,
            seed=data.seed,
            step=step,
            batch_size=data.batch_size,
            size=size,
            flip=data.flip,
            load_size=load_size,
        )
        if data.cache == "device":
            return {"index": index} | place

        def crop(batch, depth):
            if not data.flip and size == load_size:
                return augment.resize(batch, _methods(data), load_size)
            return augment.crop(
                batch,
                _methods(data),
                offset=tf.repeat(place["offset"], depth, axis=0),
                flip=tf.repeat(place["flip"], depth),
                size=size,
                load_size=load_size,
            )

        return _load(images, index, crop) | {"index": index}

    return _iterate(images, tf.data.Dataset.range(start_step, stop_step), load)


def eval_batches(data, split, host=0, hosts=1, indices=None):
    """Batches with each slice of a split once over all hosts, in record order.

    The last global batch is padded with copies of the last example, with index -1. All hosts get
    the same number of batches. Examples of data.depth slices cover each stretch of slices from the
    first one on; its last example ends with the last slice, and slices that it shares with the
    example before have index -1.

    Args:
        indices: of the examples to give instead, in this order.

    Returns:
        Iterator of {"source", "target": [b, S, S, c], "index": int64 [b]}, or with data.depth = d
        of [b, d, S, S, c] and [b, d], unaugmented, S being data.image_size.

    Raises:
        DataError: as `train_batches`, but batch_size may exceed the examples.
    """
    records = _records(data, split)
    rows = _rows(data.batch_size, host, hosts)
    slices, counted = evaluation_slices(examples(data, split), data.depth)
    wanted = np.arange(len(slices)) if indices is None else np.asarray(indices, np.int64)

    def resize(batch, depth):
        del depth
        return augment.resize(batch, _methods(data), data.image_size)

    def load(batch):
        place = batch * data.batch_size + tf.range(data.batch_size, dtype=tf.int64)[rows]
        real = place < len(wanted)
        example = tf.gather(wanted, tf.minimum(place, len(wanted) - 1))
        index = tf.gather(slices, example)
        real = tf.reshape(real, [-1] + [1] * (index.shape.rank - 1)) & tf.gather(counted, example)
        return _load(records, index, resize) | {"index": tf.where(real, index, -1)}

    return _iterate(records, tf.data.Dataset.range(-(-len(wanted) // data.batch_size)), load)


def _training_slices(data):
    return training_slices(examples(data, "train"), data.depth, data.empty_slices)


def _records(data, split):
    _check_split(split)
    return Records(ensure_prepared(data), data, split)


def _load(images, index, transform):
    """The slices of index, [b] or [b, d], transformed: {"source", "target"}: [*index, h, w, c]."""
    depth = index.shape[1] if index.shape.rank == 2 else 1
    batch = transform(images.load(tf.reshape(index, [-1])), depth)
    return {key: tf.reshape(x, [*index.shape, *x.shape[1:]]) for key, x in batch.items()}


def _methods(data):
    return {"source": METHODS[data.source], "target": METHODS[data.target]}


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
    """Batches of all slices in record order, resized to load_size; the last repeats a slice."""
    load_size = data.load_size or data.image_size

    def load(start):
        index = tf.minimum(start + tf.range(size, dtype=tf.int64), len(records) - 1)
        return augment.resize(records.load(index), _methods(data), load_size)

    return _iterate(records, tf.data.Dataset.range(0, len(records), size), load)


def _cache_bytes(records, data):
    example = next(_enlarged(records, data, 1))
    return len(records) * sum(images.nbytes for images in example.values())


class _Cached:
    """The images of `train_set`, gathered in memory."""

    error = None

    def __init__(self, images):
        self._images = images

    def load(self, index):
        """{"source", "target"}: [m, L, L, c], of index, int64 [m]."""

        # Not tf.gather, to which the images would be a copy.
        def gather(index):
            return [images[index] for images in self._images.values()]

        types = [images.dtype for images in self._images.values()]
        batch = tf.numpy_function(gather, [index], types, stateful=False)
        return {
            key: tf.ensure_shape(images, [index.shape[0], *self._images[key].shape[1:]])
            for key, images in zip(self._images, batch, strict=True)
        }


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
