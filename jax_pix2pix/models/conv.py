"""Convolutions for 2D and 3D images, channels last: the only place that knows about platforms.

A convolution and its transpose share one index convention, so that they are exact adjoints::

    conv:            small[i]           = sum_a large[s*i + a - p] @ w[a]
    conv_transpose:  large[s*i + a - p] += small[i] @ w[a]       (tap a, stride s, padding p)

Kernels are stored ``[k, ..., in, out]``. PyTorch has the same convention:
``Conv2d.weight.permute(2, 3, 1, 0)`` and ``ConvTranspose2d.weight.permute(2, 3, 0, 1)`` are these
kernels, with no flip.

The halving and doubling layers of a U-Net (k4 s2 p1) are built from three bilinear maps of a
small image, a large image and a kernel. Each map's derivatives are the other two, at any order::

    halve(large, w) -> small    double(small, w) -> large    correlate(small, large) -> w

On the CPU, XLA computes the weight gradient of a dilated convolution and most passes over small
images one to two orders of magnitude below the matrix-product rate of the machine. The same sums
as 2**ndim shifted matrix products over blocks of 2 x 2 (x 2) pixels run close to it. GPU and TPU
keep native convolutions, which move fewer bytes there.
"""

import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

KERNEL_INIT = nn.initializers.normal(0.02)  # DCGAN: Radford et al., ICLR 2016


def _native_conv(x, w, stride, padding):
    """[n, ..., in] * [k, ..., in, out] -> [n, ..., out]."""
    ndim = x.ndim - 2
    letters = "HWD"[:ndim]
    return lax.conv_general_dilated(
        x,
        w,
        (stride,) * ndim,
        [(padding, padding)] * ndim,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )


def _native_conv_transpose(x, w, stride, padding):
    """The adjoint of _native_conv: [n, ..., in] * [k, ..., in, out] -> [n, ..., out]."""
    ndim, size = x.ndim - 2, w.shape[0]
    letters = "HWD"[:ndim]
    return lax.conv_general_dilated(
        x,
        jnp.flip(w, range(ndim)),
        (1,) * ndim,
        [(size - 1 - padding,) * 2] * ndim,
        lhs_dilation=(stride,) * ndim,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )


# --- k4 s2 p1 as shifted matrix products ----------------------------------------------------
# Pad the large image by 1 and cut it into blocks of 2 pixels a side. With tap a = 2u + r, output
# i reads offset r of block i + u: each of the 2**ndim block shifts u is one matrix product.
# Kernels are [4, ..., small channels, large channels] in this section.


def _to_blocks(large):
    """[n, 2m, ..., c] -> [n, m + 1, ..., 2**ndim, c]: the blocks of the padded image."""
    ndim, n, c = large.ndim - 2, large.shape[0], large.shape[-1]
    padded = jnp.pad(large, [(0, 0), *[(1, 1)] * ndim, (0, 0)])
    halves = [size for m in large.shape[1:-1] for size in (m // 2 + 1, 2)]
    order = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
    blocks = padded.reshape(n, *halves, c).transpose(order)
    return blocks.reshape(*blocks.shape[: ndim + 1], 2**ndim, c)


def _from_blocks(blocks):
    """The inverse of _to_blocks."""
    ndim = blocks.ndim - 3
    n, *sizes, c = *blocks.shape[: ndim + 1], blocks.shape[-1]
    order = [0, *[axis for d in range(ndim) for axis in (1 + d, 1 + ndim + d)], 2 * ndim + 1]
    padded = blocks.reshape(n, *sizes, *(2,) * ndim, c).transpose(order)
    padded = padded.reshape(n, *[2 * m for m in sizes], c)
    return padded[(slice(None), *[slice(1, -1)] * ndim)]


def _shifts(ndim):
    return list(itertools.product((0, 1), repeat=ndim))


def _window(blocks, shift):
    """[n, m + 1, ..., r, c] -> [n, m, ..., r, c], from block ``shift`` on."""
    sizes = blocks.shape[1 : len(shift) + 1]
    return blocks[(slice(None), *[slice(u, u + m - 1) for u, m in zip(shift, sizes, strict=True)])]


def _kernels_by_shift(w):
    """[4, ..., s, l] -> [2**ndim shifts, 2**ndim offsets, s, l]."""
    ndim = w.ndim - 2
    order = [*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2), 2 * ndim, 2 * ndim + 1]
    return (
        w.reshape(*(2, 2) * ndim, *w.shape[-2:])
        .transpose(order)
        .reshape(2**ndim, 2**ndim, *w.shape[-2:])
    )


def _kernel_from_shifts(kernels):
    """The inverse of _kernels_by_shift."""
    ndim = int(math.log2(kernels.shape[0]))
    order = [*[axis for d in range(ndim) for axis in (d, ndim + d)], 2 * ndim, 2 * ndim + 1]
    return (
        kernels.reshape(*(2,) * (2 * ndim), *kernels.shape[-2:])
        .transpose(order)
        .reshape(*(4,) * ndim, *kernels.shape[-2:])
    )


def _product(equation, a, b):
    """An einsum that accumulates in float32 at least, and returns the type of its inputs."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=wide)


def _total(parts):
    return functools.reduce(jnp.add, parts)


def _halve_blocks(large, w):
    blocks, shifts = _to_blocks(large), _shifts(large.ndim - 2)
    parts = [
        _product("n...rl,rsl->n...s", _window(blocks, u), k)
        for u, k in zip(shifts, _kernels_by_shift(w), strict=True)
    ]
    return _total(parts).astype(large.dtype)


def _double_blocks(small, w):
    parts = []
    for u, k in zip(_shifts(small.ndim - 2), _kernels_by_shift(w), strict=True):
        part = _product("n...s,rsl->n...rl", small, k)
        parts.append(jnp.pad(part, [(0, 0), *[(s, 1 - s) for s in u], (0, 0), (0, 0)]))
    return _from_blocks(_total(parts)).astype(small.dtype)


def _correlate_blocks(small, large):
    blocks = _to_blocks(large)
    kernels = [
        _product("n...s,n...rl->rsl", small, _window(blocks, u)) for u in _shifts(small.ndim - 2)
    ]
    return _kernel_from_shifts(jnp.stack(kernels)).astype(small.dtype)


# --- the same three maps, native --------------------------------------------------------------


def _halve_native(large, w):
    return _native_conv(large, jnp.swapaxes(w, -1, -2), 2, 1)


def _double_native(small, w):
    return _native_conv_transpose(small, w, 2, 1)


def _correlate_native(small, large):
    ndim = small.ndim - 2
    kernel = jax.ShapeDtypeStruct((4,) * ndim + (small.shape[-1], large.shape[-1]), small.dtype)
    (w,) = jax.linear_transpose(lambda w: _halve_native(large, w), kernel)(small)
    return w


# --- the three maps, chosen by platform, each the derivative of the others -----------------------


@jax.custom_vjp
def halve(large, w):
    """k4 s2 p1 convolution: [n, 2m, ..., l], [4, ..., s, l] -> [n, m, ..., s]."""
    # With few channels in a block the native convolution is the faster one on the CPU as well.
    cpu = _halve_blocks if large.shape[-1] >= 256 else _halve_native
    return lax.platform_dependent(large, w, cpu=cpu, default=_halve_native)


@jax.custom_vjp
def double(small, w):
    """k4 s2 p1 transposed convolution: [n, m, ..., s], [4, ..., s, l] -> [n, 2m, ..., l]."""
    return lax.platform_dependent(small, w, cpu=_double_blocks, default=_double_native)


@jax.custom_vjp
def correlate(small, large):
    """The kernel gradient of both: [n, m, ..., s], [n, 2m, ..., l] -> [4, ..., s, l]."""
    return lax.platform_dependent(small, large, cpu=_correlate_blocks, default=_correlate_native)


halve.defvjp(
    lambda large, w: (halve(large, w), (large, w)),
    lambda saved, g: (double(g, saved[1]), correlate(g, saved[0])),
)
double.defvjp(
    lambda small, w: (double(small, w), (small, w)),
    lambda saved, g: (halve(g, saved[1]), correlate(saved[0], g)),
)
correlate.defvjp(
    lambda small, large: (correlate(small, large), (small, large)),
    lambda saved, g: (halve(saved[1], g), double(saved[0], g)),
)


def _is_halving(kernel, stride, padding):
    return (kernel, stride, padding) == (4, 2, 1)


class Conv(nn.Module):
    """Convolution of [n, ..., in] in as many dimensions as the input has, zero-padded.

    ``dtype`` is the type of the computation; parameters keep the type that they are given in.
    """

    features: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        ndim = x.ndim - 2
        shape = (self.kernel,) * ndim + (x.shape[-1], self.features)
        x, w = x.astype(self.dtype), self.param("kernel", KERNEL_INIT, shape).astype(self.dtype)
        even = all(m % 2 == 0 for m in x.shape[1:-1])
        if _is_halving(self.kernel, self.stride, self.padding) and even:
            y = halve(x, jnp.swapaxes(w, -1, -2))
        else:
            y = _native_conv(x, w, self.stride, self.padding)
        return _add_bias(self, y)


class ConvTranspose(nn.Module):
    """Transposed convolution of [n, ..., in], the adjoint of Conv with the same numbers."""

    features: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        ndim = x.ndim - 2
        shape = (self.kernel,) * ndim + (x.shape[-1], self.features)
        x, w = x.astype(self.dtype), self.param("kernel", KERNEL_INIT, shape).astype(self.dtype)
        if _is_halving(self.kernel, self.stride, self.padding):
            y = double(x, w)
        else:
            y = _native_conv_transpose(x, w, self.stride, self.padding)
        return _add_bias(self, y)


def _add_bias(module, y):
    if not module.use_bias:
        return y
    return y + module.param("bias", nn.initializers.zeros, (module.features,)).astype(y.dtype)
