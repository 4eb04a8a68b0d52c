"""A network's output of a volume, from overlapping patches blended by Gaussian weights."""

import functools
import itertools

import numpy as np

SIGMA = 1 / 8  # of a patch's side: at its border the weight is 3e-4 of that at its centre


def starts(length, patch):
    """Where patches along an axis begin: half a patch apart, and the last one ends with the axis.

    One of an axis shorter than a patch begins at 0.
    """
    last = max(length - patch, 0)
    return sorted({min(start, last) for start in range(0, length, max(patch // 2, 1))})


def gaussian(length):
    """float64 [length]: weights of the voxels along a patch's side, symmetric about its middle."""
    offsets = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (offsets / (SIGMA * length)) ** 2)


def blend(source, patch, generate, channels=1):
    """Generates a volume patch by patch; beside source and result, one patch is in memory.

    Args:
        source: [d, h, w, c]. Along an axis shorter than a patch its last voxels are repeated.
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
    for corner in itertools.product(*corners):
        inside = [
            np.minimum(start + np.arange(side), length - 1)
            for start, side, length in zip(corner, patch, shape, strict=True)
        ]
        output = np.asarray(generate(source[np.ix_(*inside)][None]))[0] * weight
        own = total[tuple(map(slice, corner, np.add(corner, patch)))]
        own += output[tuple(map(slice, own.shape))]
    # Corners and weights are products over the axes, and so is the sum of weights at a voxel.
    for axis, (length, side) in enumerate(zip(shape, patch, strict=True)):
        sums = np.zeros(max(length, side))
        for start in corners[axis]:
            sums[start : start + side] += weights[axis]
        total /= np.expand_dims(sums[:length], [i for i in range(4) if i != axis])
    return total
