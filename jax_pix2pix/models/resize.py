"""Changes of size inside networks, in any number of dimensions."""

import jax.numpy as jnp
import numpy as np


def nearest_twice(x):
    """Doubles each side: [n, *spatial, c] -> [n, *(2 * spatial), c], each pixel a block."""
    spatial = x.shape[1:-1]
    # One broadcast of all axes at once; repeating axis by axis would store the steps between.
    x = x.reshape(x.shape[0], *(m for side in spatial for m in (side, 1)), x.shape[-1])
    blocks = (x.shape[0], *(m for side in spatial for m in (side, 2)), x.shape[-1])
    return jnp.broadcast_to(x, blocks).reshape(blocks[0], *(2 * m for m in spatial), blocks[-1])


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
