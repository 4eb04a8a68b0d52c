"""Batches of image pairs from a prepared data set, for training and evaluation.

Throughout, `data` is config.data; `prepared.py` finds the data set, or prepares a sample.

A pair is a "source" and the "target" to make from it: the stored arrays that data.source and
data.target name, in their stored integer types. The device casts and scales them to [-1, 1]: uint8
is a quarter of the bytes to send there.
"""

import itertools
import os

import numpy as np

from input_pipeline import augment, memory, order
from input_pipeline.example_slices import evaluation_slices, training_slices, with_neighbours
from input_pipeline.prepared import check_split, examples, find
from input_pipeline.records import ON_ERROR, Cached, Records
from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import DataError

CACHES = ("none", "host", "device")
# How each array is resized; "nearest" keeps classes.
METHODS = {"image": "bilinear", "ct": "bilinear", "mask": "nearest"}
THREADS = min(16, os.cpu_count() or 1)
CHUNK = 64  # examples to read into a cache at a time


def check_training(data):
    """Raises early what `train_batches` and `train_set` would, before anything is written.

    Raises:
        DataError: the data set is not prepared; batch_size exceeds the examples; fields do not fit
            together; there is no such cache or on_error; or the cache does not fit into memory.
    """
    if data.on_error not in ON_ERROR:
        raise DataError(
            f'config.data.on_error is "{data.on_error}": use one of {", ".join(ON_ERROR)}'
        )
    records = _records(data, "train")
    if data.repeat < 1:
        raise DataError(f"config.data.repeat is {data.repeat}: use 1, or more for a single scan")
    slices = _training_slices(data)
    order.steps_per_epoch(len(slices), data.batch_size)
    enlarged = data.load_size or data.image_size
    if enlarged < data.image_size:
        raise DataError(
            f"config.data.load_size is {data.load_size}: use 0, or {data.image_size} or more"
        )
    if not 0 <= data.patch_size <= enlarged:
        raise DataError(f"config.data.patch_size is {data.patch_size}: use 0 to {enlarged}")
    if data.depth and data.get("split_by") == "slice":
        raise DataError(
            "config.data.split_by is slice, which leaves no runs for config.data.depth: use volume"
        )
    if data.depth and data.context:
        raise DataError("config.data.context is of 2D: set it or config.data.depth to 0")
    _to_read(data, examples(data, "train"), slices)
    if data.cache not in CACHES:
        raise DataError(f'config.data.cache is "{data.cache}": use one of {", ".join(CACHES)}')
    if data.cache != "none":
        memory.check_fits(_cache_bytes(records, data))


def num_training_examples(data):
    """Number of examples that train_batches draws from: slices, or runs of data.depth slices.

    Each example counts data.repeat times.
    """
    return len(_training_slices(data))


def num_evaluation_examples(data, split):
    """Number of examples that eval_batches gives: slices, or runs of data.depth covering them."""
    return len(evaluation_slices(examples(data, split), data.depth)[0])


def train_batches(data, start_step, stop_step, host=0, hosts=1):
    """Batches of steps [start_step, stop_step), reshuffled in each epoch.

    The global batch of a step is a function of data.seed and the step alone. It does not depend on
    the number of hosts, the first step or data.cache. Starting takes the same time at any step,
    once the cache is filled. At most THREADS + 3 batches are in memory at a time.

    Call `check_training` first: it refuses settings that cannot work.

    Returns:
        Iterator of {"source", "target": [b, P, P, c], "index": int64 [b]}: this host's
        b = batch_size / hosts consecutive rows of the global batch. With data.depth = d, images
        are [b, d, P, P, c] and "index", of slices, is [b, d]. With data.cache "device", a batch
        holds the numbers with which a step gathers the same images from `train_set`: {"index",
        "offset": int32 [b, 2], "flip": bool [b]}; see `augment.draw`.

    Raises:
        DataError: batch_size is not a multiple of hosts; while iterating, a record that cannot be
            read.
    """
    images = _records(data, "train")
    if data.cache == "host":
        images = Cached(train_set(data))
    return stream(images, data, start_step, stop_step, host, hosts)


def train_set(data):
    """All training slices, resized for augmentation, to fill a cache.

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
    """Gives the batches of `train_batches` from any `images`.

    Args:
        images: has load(index, a tensor [m]) -> {"source", "target"}, slices as stored or as
            resized for a cache; and `error`, None or the DataError of a failed load.
    """
    rows = _rows(data.batch_size, host, hosts)
    slices = _training_slices(data)
    neighbours = _to_read(data, examples(data, "train"), slices)
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
        read = tf.gather(neighbours, example)
        if data.cache == "device":
            return {"index": read} | place

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

        slices_read = images.load(tf.reshape(read, [-1]))
        return _arrange(slices_read, read, crop, data.context) | {"index": index}

    return _iterate(images, tf.data.Dataset.range(start_step, stop_step), load)


def eval_batches(data, split, host=0, hosts=1, indices=None):
    """Batches that hold each slice of a split once over all hosts, in record order.

    With data.accumulate a global batch has the size of an accumulated part, since a training batch
    may not fit into memory. The last one is padded with copies of the last example, with index -1.
    All hosts get the same number of batches. Examples of data.depth slices cover each stretch of
    slices from its first one on. The last example of a stretch ends with its last slice, and slices
    that it shares with the example before have index -1. With data.on_error "skip", all slices of
    an example have index -1 if one of them, or only a neighbour, cannot be read.

    Args:
        indices: the examples to give instead, in this order.

    Returns:
        Iterator of {"source", "target": [b, S, S, c], "index": int64 [b]}, unaugmented, where S is
        data.image_size. With data.depth = d the shapes are [b, d, S, S, c] and [b, d].

    Raises:
        DataError: as in `train_batches`, but batch_size may exceed the examples.
    """
    records = _records(data, split)
    batch_size = data.batch_size // data.accumulate
    rows = _rows(batch_size, host, hosts)
    slices, counted = evaluation_slices(examples(data, split), data.depth)
    neighbours = _to_read(data, examples(data, split), slices)
    wanted = np.arange(len(slices)) if indices is None else np.asarray(indices, np.int64)

    def resize(batch, depth):
        del depth
        return augment.resize(batch, _methods(data), data.image_size)

    def load(batch):
        place = batch * batch_size + tf.range(batch_size, dtype=tf.int64)[rows]
        real = place < len(wanted)
        example = tf.gather(wanted, tf.minimum(place, len(wanted) - 1))
        index = tf.gather(slices, example)
        read = tf.gather(neighbours, example)
        slices_read, readable = records.load_and_tell(tf.reshape(read, [-1]))
        real &= tf.reduce_all(tf.reshape(readable, [read.shape[0], -1]), axis=1)
        real = tf.reshape(real, [-1] + [1] * (index.shape.rank - 1)) & tf.gather(counted, example)
        images = _arrange(slices_read, read, resize, data.context)
        return images | {"index": tf.where(real, index, -1)}

    return _iterate(records, tf.data.Dataset.range(-(-len(wanted) // batch_size)), load)


def _training_slices(data):
    slices = training_slices(examples(data, "train"), data.depth, data.empty_slices)
    return np.concatenate([slices] * data.repeat)


def _records(data, split):
    check_split(split)
    return Records(find(data), data, split)


def _to_read(data, found, slices):
    """The slices to read for each example: its own and, with data.context, their neighbours."""
    return with_neighbours(found, slices, data.context) if data.context else slices


def _arrange(slices_read, index, transform, context):
    """Transforms the slices of index, [b] or [b, d]. -> {"source", "target"}: [*index, h, w, c].

    Args:
        slices_read: {"source", "target"}: [b d, S, S, c].

    With context, the source has the d slices as channels, [b, h, w, d c], and the target is the
    middle slice's.
    """
    depth = index.shape[1] if index.shape.rank == 2 else 1
    batch = transform(slices_read, depth)
    batch = {key: tf.reshape(x, [*index.shape, *x.shape[1:]]) for key, x in batch.items()}
    if context:
        channels = tf.concat(tf.unstack(batch["source"], axis=1), axis=-1)
        batch = {"source": channels, "target": batch["target"][:, context]}
    return batch


def _methods(data):
    return {"source": METHODS[data.source], "target": METHODS[data.target]}


def _rows(batch_size, host, hosts):
    if batch_size % hosts:
        raise DataError(
            f"config.data.batch_size is {batch_size}, not a multiple of the {hosts} hosts"
        )
    return slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)


def _enlarged(records, data, size):
    """Batches of all slices in record order, resized to load_size; the last batch repeats one."""
    load_size = data.load_size or data.image_size

    def load(start):
        index = tf.minimum(start + tf.range(size, dtype=tf.int64), len(records) - 1)
        return augment.resize(records.load(index), _methods(data), load_size)

    return _iterate(records, tf.data.Dataset.range(0, len(records), size), load)


def _cache_bytes(records, data):
    example = next(_enlarged(records, data, 1))
    return len(records) * sum(images.nbytes for images in example.values())


def _iterate(records, steps, load):
    """Maps `load` over a tf.data.Dataset of scalars, in order. -> iterator of dicts of arrays.

    Reading begins at once, so that the first batch is ready when the step has been compiled.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_warm_start = True
    options.autotune.enabled = False  # it has nothing to tune, and its thread is slow to end
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    load = tf.autograph.experimental.do_not_convert(load)  # no control flow, and slow to convert
    batches = steps.map(load, num_parallel_calls=THREADS).prefetch(2).with_options(options)
    iterator = batches.as_numpy_iterator()

    def read():
        for batch in iterator:
            if records.error:  # of this batch, or of one that was read ahead
                raise records.error
            yield batch

    return read()
