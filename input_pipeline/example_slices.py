"""Which slices make up an example of training or evaluation, in 2D and 3D. No TensorFlow."""

import hashlib
import itertools

import numpy as np

from jax_pix2pix.errors import DataError


def training_slices(found, depth, empty_slices):
    """The slices of each training example.

    In 3D an example begins at each slice that depth - 1 consecutive slices of its patient follow. A
    shorter stretch gives one example, which repeats the last slice.

    Args:
        found: the Example of each slice.
        depth: slices of an example, or 0 in 2D.
        empty_slices: share of the slices of class "empty" to keep, in 2D.

    Returns:
        Indices of slices, int64 [n], or [n, depth] in 3D.

    Raises:
        DataError: depth or empty_slices is out of range, or they exclude each other.
    """
    if not 0 <= empty_slices <= 1:
        raise DataError(f"config.data.empty_slices is {empty_slices}: use a share, 0 to 1")
    if depth < 0:
        raise DataError(f"config.data.depth is {depth}: use 0, or the slices of an example")
    if depth:
        if empty_slices < 1:
            raise DataError("config.data.empty_slices must be 1 with depth: runs have no gaps")
        starts = [
            (start, stop)
            for first, stop in _stretches(found)
            for start in range(first, max(stop - depth, first) + 1)
        ]
        return np.stack([_run(start, stop, depth) for start, stop in starts])
    kept = [
        i
        for i, example in enumerate(found)
        if example.label != "empty" or _uniform(example) < empty_slices
    ]
    return np.array(kept, np.int64)


def evaluation_slices(found, depth):
    """(indices of each example's slices, as above; bool of that shape: which of them to count)."""
    if not depth:
        return np.arange(len(found)), np.ones(len(found), bool)
    slices, counted = [], []
    for first, stop in _stretches(found):
        for start in range(first, stop, depth):
            run = _run(max(min(start, stop - depth), first), stop, depth)
            slices.append(run)
            counted.append((run >= start) & np.insert(np.diff(run) > 0, 0, True))
    return np.stack(slices), np.stack(counted)


def with_neighbours(found, slices, context):
    """Puts each slice between its neighbours: [n] -> [n, 2 context + 1], from the feet up.

    Neighbours are consecutive slices of one patient. The ends of a stretch are repeated.

    Raises:
        DataError: context is negative.
    """
    if context < 0:
        raise DataError(f"config.data.context is {context}: use 0, or the slices on each side")
    ends = np.empty((len(found), 2), np.int64)
    for first, stop in _stretches(found):
        ends[first:stop] = first, stop - 1
    around = slices[:, None] + np.arange(-context, context + 1)
    return np.clip(around, *ends[slices].T[..., None])


def _stretches(found):
    """(first, stop) of each stretch of consecutive slices of one patient."""

    def follows(i):
        this, last = found[i], found[i - 1]
        return this.patient == last.patient and this.slice_index == last.slice_index + 1

    bounds = [0, *(i for i in range(1, len(found)) if not follows(i)), len(found)]
    return itertools.pairwise(bounds)


def _run(start, stop, depth):
    return np.minimum(np.arange(start, start + depth, dtype=np.int64), stop - 1)


def _uniform(example):
    """A number in [0, 1) from the slice alone, so added patients do not change which are kept."""
    text = f"{example.patient}\0{example.slice_index}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
