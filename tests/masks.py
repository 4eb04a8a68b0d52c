"""Pairs of masks for tests of segmentation scores."""

import numpy as np
from scipy.ndimage import gaussian_filter


def blobs(rng, shape, share=0.2):
    """A bool mask of smooth random shapes that covers a share of the grid and meets its border."""
    noise = gaussian_filter(rng.normal(size=shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


def pairs(shape, seed=0):
    """{name: (prediction, reference)}, what a score may meet on one grid."""
    rng = np.random.default_rng(seed)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    corner, middle = empty.copy(), empty.copy()
    corner[(0,) * len(shape)] = True
    middle[tuple(size // 2 for size in shape)] = True
    blob = blobs(rng, shape)
    return {
        "blobs": (blob, blobs(rng, shape, 0.3)),
        "equal": (blob, blob),
        "disjoint": (blob, ~blob),
        "noise": (rng.random(shape) < 0.4, blob),
        "voxels": (corner, middle),
        "voxel and blob": (corner, blob),
        "full": (blob, full),
        "nothing predicted": (empty, blob),
        "nothing there": (blob, empty),
        "both empty": (empty, empty),
    }
