"""Changes of size inside networks, in any number of dimensions."""

import jax.numpy as jnp
import numpy as np


def nearest_twice(x):
    """Doubles each side: [n, *spatial, c] -> [n, *(2 * spatial), c], each pixel a block."""
    spatial = x.shape[1:-1]
    # One broadcast of all axes at once; repeating axis by axis would store intermediate images.
    x = x.reshape(x.shape[0], *(m for side in spatial for m in (side, 1)), x.shape[-1])
    blocks = (x.shape[0], *(m for side in spatial for m in (side, 2)), x.shape[-1])
    return jnp.broadcast_to(x, blocks).reshape(blocks[0], *(2 * m for m in spatial), blocks[-1])


def resize_linear(x, size):
    """Interpolates linearly with aligned corners: [n, *spatial, c] -> [n, *size, c].

    The centres of the first and the last pixel of an axis keep their places, as in PyTorch's
    interpolate with align_corners=True; jax.image.resize keeps the outer edges instead.
    """
    for axis, length in enumerate(size, 1):
        if x.shape[axis] != length:
            weights = interpolation(x.shape[axis], length).astype(x.dtype)
            x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis), precision="highest"), 0, axis)
    return x


def interpolation(length, new_length):
    """[new_length, length]: row i has the weights of the two pixels around place i."""
    place = np.arange(new_length) * ((length - 1) / max(new_length - 1, 1))
    below = np.minimum(place.astype(int), max(length - 2, 0))
    weights = np.zeros((new_length, length))
    rows = np.arange(new_length)
    weights[rows, below] = 1 - (place - below)
    weights[rows, np.minimum(below + 1, length - 1)] += place - below
    return weights


def adaptive_average_pool(x, size):
    """Means over size windows along each spatial axis: [n, *spatial, c] -> [n, size, ..., c].

    Window i of m pixels spans floor(i m / size) to ceil((i + 1) m / size), so that windows may
    share pixels, and repeat them where m < size, as in PyTorch's AdaptiveAvgPool. Returns float32
    for bfloat16.
    """
    # Sums of bfloat16 are taken in float32; the weights, ones, are exact in both.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    for axis in range(1, x.ndim - 1):
        windows = _windows(x.shape[axis], size)
        sums = jnp.tensordot(
            windows.astype(x.dtype), x, (1, axis), precision="highest", preferred_element_type=wide
        )
        counts = windows.sum(1).astype(wide).reshape(-1, *(1,) * (x.ndim - 1))
        x = jnp.moveaxis(sums / counts, 0, axis)
    return x


def _windows(length, size):
    """[size, length]: row i is 1 in window i, 0 elsewhere."""
    rows = np.zeros((size, length))
    for i, row in enumerate(rows):
        row[i * length // size : -(-(i + 1) * length // size)] = 1
    return rows
