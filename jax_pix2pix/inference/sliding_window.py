"""Applies a network to a whole volume in batches of slices, runs of slices or 3D patches.

Each function calls `progress(done, total)`, if given, after each call of the network.
"""

import functools
import itertools
import math

import numpy as np

BATCH = 16  # slices that a 2D network sees at once
SIGMA = 1 / 8  # of a patch's side: at its border the weight is 3e-4 of that at its centre


def starts(length, patch):
    """Lists where patches begin along an axis: half a patch apart, the last ending with the axis.

    An axis shorter than a patch has one, which begins at 0.
    """
    last = max(length - patch, 0)
    return sorted({min(start, last) for start in range(0, length, max(patch // 2, 1))})


def gaussian(length):
    """Weights the voxels along a patch's side, symmetrically about its middle: float64 [length]."""
    offsets = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (offsets / (SIGMA * length)) ** 2)


def by_slices(stored, context, network, progress=None, stretches=None):
    """Applies a 2D network to each slice with its neighbours; end slices are repeated.

    Args:
        stored: [d, h, w, c]; c is 1 with neighbours.
        context: neighbours on each side, which become channels.
        network: [BATCH, h, w, c (2 context + 1)] -> tuple of arrays [BATCH, ...].
        stretches: bool [d]: slices on two sides of a change are not neighbours; None has no change.

    Returns:
        A list of arrays [d, ...].
    """
    count = len(stored)
    neighbours = np.arange(-context, context + 1)
    own = np.zeros(count, bool) if stretches is None else stretches
    ends = np.flatnonzero(np.diff(own)) + 1  # where stretches begin
    stretch = np.searchsorted(ends, np.arange(count), side="right")
    first, stop = np.append(0, ends)[stretch], np.append(ends, count)[stretch]
    parts, starts = [], range(0, count, BATCH)
    for done, start in enumerate(starts, 1):
        # The last slice is repeated, so that the network is compiled once.
        slices = np.minimum(np.arange(start, start + BATCH), count - 1)
        around = slices[:, None] + neighbours
        around = np.clip(around, first[slices, None], stop[slices, None] - 1)
        batch = stored[slices] if not context else np.moveaxis(stored[around, ..., 0], 1, -1)
        parts.append([np.asarray(output)[: count - start] for output in network(batch)])
        _tell(progress, done, len(starts))
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def by_runs(stored, depth, network, progress=None):
    """Applies a 3D network to runs of slices that overlap by half, and averages its outputs.

    Args:
        stored: [d, h, w, c]; a volume of fewer slices than `depth` repeats the last one.
        network: [1, depth, h, w, c] -> tuple of arrays [1, depth, ...].

    Returns:
        A list of arrays float32 [d, ...].
    """
    count, places = len(stored), starts(len(stored), depth)
    totals, times = None, np.zeros(count, np.float32)
    for done, start in enumerate(places, 1):
        slices = np.minimum(np.arange(start, start + depth), count - 1)
        outputs = [np.asarray(output)[0] for output in network(stored[slices][None])]
        if totals is None:
            totals = [np.zeros((count, *output.shape[1:]), np.float32) for output in outputs]
        own = slice(start, min(start + depth, count))
        for total, output in zip(totals, outputs, strict=True):
            total[own] += output[: own.stop - start]
        times[own] += 1
        _tell(progress, done, len(places))
    return [total / times.reshape(-1, *[1] * (total.ndim - 1)) for total in totals or ()]


def blend(source, patch, generate, channels=1, progress=None):
    """Generates a volume from 3D patches that overlap by half, weighted by Gaussians.

    Memory holds one patch beside source and result.

    Args:
        source: [d, h, w, c]. An axis shorter than a patch repeats its last voxels.
        patch: (d, h, w) of a patch.
        generate: [1, *patch, c] -> [1, *patch, channels].

    Returns:
        float32 [d, h, w, channels]: the mean over the patches that hold a voxel, weighted by
        `gaussian` along each axis.
    """
    shape = source.shape[:-1]
    weights = [gaussian(side) for side in patch]
    weight = functools.reduce(np.multiply.outer, weights).astype(np.float32)[..., None]
    corners = [starts(length, side) for length, side in zip(shape, patch, strict=True)]
    total = np.zeros((*shape, channels), np.float32)
    for done, corner in enumerate(itertools.product(*corners), 1):
        inside = [
            np.minimum(start + np.arange(side), length - 1)
            for start, side, length in zip(corner, patch, shape, strict=True)
        ]
        output = np.asarray(generate(source[np.ix_(*inside)][None]))[0] * weight
        own = total[tuple(map(slice, corner, np.add(corner, patch)))]
        own += output[tuple(map(slice, own.shape))]
        _tell(progress, done, math.prod(map(len, corners)))
    # Corners and weights are products over the axes, and so is the sum of weights at a voxel.
    for axis, (length, side) in enumerate(zip(shape, patch, strict=True)):
        sums = np.zeros(max(length, side))
        for start in corners[axis]:
            sums[start : start + side] += weights[axis]
        total /= np.expand_dims(sums[:length], [i for i in range(4) if i != axis])
    return total


def _tell(progress, done, total):
    if progress:
        progress(done, total)
