"""The maps that convolutions are made of, 2D and 3D: the only place that knows about platforms.

To follow training, skip this file: its mathematics is that of `lax.conv_general_dilated`.

A convolution, its transpose and their kernel gradient are three bilinear maps between a large
image, a small image and a kernel ``w``, with tap a, stride s and padding p::

    convolve(large, w) -> small          small[i]           = sum_a large[s*i + a - p] w[a]
    scatter(small, w) -> large           large[s*i + a - p] += small[i] w[a]
    correlate(small, large) -> w         w[a]               = sum_i large[s*i + a - p] small[i]

Each map's derivatives are the other two, at any order, so every pass of training is one of them.
Kernels are ``[k, ..., in, out]``, which for a transposed convolution means [k, ..., small, large].
PyTorch has the same convention: ``Conv2d.weight.permute(2, 3, 1, 0)`` and
``ConvTranspose2d.weight.permute(2, 3, 0, 1)`` are these kernels, with no flip.

GPU and TPU get native convolutions, which move the fewest bytes there. On the CPU XLA is fast at
plain 2D convolutions and at matrix products whose left operand is not transposed. It is slow at
most else: strided and dilated gradients, 3D, transposing copies fused into other loops. So its maps
are built from fast operations. `python -m launch.benchmark.convolutions` compares them all.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Static numbers of a convolution: size is the large image's, in pixels."""

    kernel: int
    stride: int
    padding: int
    size: tuple[int, ...]
    transposed: bool  # kernels are [..., small, large] channels, else [..., large, small]

    @property
    def small_size(self):
        return tuple((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)

    @property
    def ndim(self):
        return len(self.size)


# --- native forms ------------------------------------------------------------------------------


def _layouts(ndim, kernel):
    letters = "HWD"[:ndim]
    return (f"N{letters}C", letters + kernel, f"N{letters}C")


def _convolve_native(large, w, g):
    return lax.conv_general_dilated(
        large,
        w,
        (g.stride,) * g.ndim,
        [(g.padding, g.padding)] * g.ndim,
        dimension_numbers=_layouts(g.ndim, "OI" if g.transposed else "IO"),
    )


def _scatter_native(small, w, g):
    low = g.kernel - 1 - g.padding
    high = [
        n - (m - 1) * g.stride - 1 + g.padding for n, m in zip(g.size, g.small_size, strict=True)
    ]
    return lax.conv_general_dilated(
        small,
        jnp.flip(w, range(g.ndim)),
        (1,) * g.ndim,
        [(low, h) for h in high],
        lhs_dilation=(g.stride,) * g.ndim,
        dimension_numbers=_layouts(g.ndim, "IO" if g.transposed else "OI"),
    )


def _correlate_native(small, large, g):
    channels = (
        (small.shape[-1], large.shape[-1]) if g.transposed else (large.shape[-1], small.shape[-1])
    )
    kernel = jax.ShapeDtypeStruct((g.kernel,) * g.ndim + channels, small.dtype)
    (w,) = jax.linear_transpose(lambda w: _convolve_native(large, w, g), kernel)(small)
    return w


def _correlate_cuda(small, large, g):
    """Gives the gradient the kernel's memory layout instead of cuDNN's.

    Otherwise the optimiser's update of every moment and parameter is fused with a transpose, so
    that it is not done in place but copied.
    """
    w = _correlate_native(small, large, g)
    return lax.optimization_barrier(w.ravel()).reshape(w.shape)


# --- forms for the CPU ---------------------------------------------------------------------------


def _product(a, b, contract=(1, 0)):
    """A matrix product that accumulates in float32 at least."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=wide)


def _total(parts):
    return functools.reduce(jnp.add, parts)


def _pad_for_taps(large, g, axes):
    """Pads or crops the first spatial axes: tap a of all outputs is a strided slice from a on."""
    sides = [
        (g.padding, g.stride * (m - 1) + g.kernel - g.padding - n, 0)
        for n, m in zip(g.size[:axes], g.small_size, strict=False)
    ]
    sides = [(0, 0, 0), *sides, *[(0, 0, 0)] * (g.ndim - axes + 1)]
    return lax.pad(large, jnp.zeros((), large.dtype), sides)


def _taps(large, g):
    """Yields the pixels that each tap meets, [n * prod(small_size), channels]."""
    padded, channels = _pad_for_taps(large, g, axes=g.ndim), large.shape[-1]
    span = [g.stride * (m - 1) + 1 for m in g.small_size]
    for tap in itertools.product(range(g.kernel), repeat=g.ndim):
        stop = [a + s for a, s in zip(tap, span, strict=True)]
        part = lax.slice(
            padded,
            (0, *tap, 0),
            (padded.shape[0], *stop, channels),
            (1, *(g.stride,) * g.ndim, 1),
        )
        yield part.reshape(-1, channels)


def _convolve_taps(large, w, g):
    """A matrix product for each tap: no copy of the kernel, for deep layers on few pixels."""
    kernels = w.reshape(-1, *w.shape[-2:])
    contract = (1, 1) if g.transposed else (1, 0)
    small = _total(
        [_product(x, k, contract) for x, k in zip(_taps(large, g), kernels, strict=True)]
    )
    return small.reshape(large.shape[0], *g.small_size, -1).astype(large.dtype)


def _transpose(matrix):
    # On its own a transpose is a fast blocked copy; fused into another loop it is a slow one.
    return lax.optimization_barrier(lax.optimization_barrier(matrix).T)


def _correlate_taps(small, large, g):
    """A matrix product for each tap, with the small image transposed once for all of them."""
    left = _transpose(small.reshape(-1, small.shape[-1]))
    w = [_product(left, x) for x in _taps(large, g)]
    w = jnp.stack(w if g.transposed else [_transpose(k) for k in w])
    return w.reshape((g.kernel,) * g.ndim + w.shape[-2:]).astype(small.dtype)


# k4 s2 p1: pad the large image by 1 and cut it into blocks of 2 pixels a side. With tap a = 2u + r,
# input i adds to offset r of block i + u.


def _kernels_by_shift(w, g):
    """-> [2**ndim shifts u, 2**ndim offsets r, *channels]."""
    ndim = g.ndim
    order = [*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2), 2 * ndim, 2 * ndim + 1]
    w = w.reshape(*(2, 2) * ndim, *w.shape[-2:]).transpose(order)
    return w.reshape(2**ndim, 2**ndim, *w.shape[-2:])


def _from_blocks(blocks, g):
    """[n, m + 1, ..., 2**ndim * c] -> [n, 2m, ..., c]."""
    ndim = g.ndim
    n, *sizes, _ = blocks.shape
    order = [0, *[axis for d in range(ndim) for axis in (1 + d, 1 + ndim + d)], 2 * ndim + 1]
    padded = blocks.reshape(n, *sizes, *(2,) * ndim, -1).transpose(order)
    padded = padded.reshape(n, *[2 * m for m in sizes], -1)
    return padded[(slice(None), *[slice(1, -1)] * ndim)]


def _scatter_shifts(small, w, g):
    """A matrix product for each block shift."""
    pixels = small.reshape(-1, small.shape[-1])
    parts = []
    shifts = itertools.product((0, 1), repeat=g.ndim)
    for shift, k in zip(shifts, _kernels_by_shift(w, g), strict=True):
        if g.transposed:
            part = _product(pixels, k.transpose(1, 0, 2).reshape(pixels.shape[1], -1))
        else:
            part = _product(pixels, k.reshape(-1, pixels.shape[1]), (1, 1))
        part = part.reshape(*small.shape[:-1], -1)
        parts.append(jnp.pad(part, [(0, 0), *[(u, 1 - u) for u in shift], (0, 0)]))
    return _from_blocks(_total(parts), g).astype(small.dtype)


def _scatter_subpixel(small, w, g):
    """One k2 convolution to the blocks: Shi et al., CVPR 2016."""
    k = _kernels_by_shift(w if g.transposed else jnp.swapaxes(w, -1, -2), g)
    k = k[::-1].transpose(0, 2, 1, 3).reshape(*(2,) * g.ndim, small.shape[-1], -1)
    blocks = lax.conv_general_dilated(
        small, k, (1,) * g.ndim, [(1, 1)] * g.ndim, dimension_numbers=_layouts(g.ndim, "IO")
    )
    return _from_blocks(blocks, g)


def _planes(large, g):
    """Yields the planes that each tap along depth meets, [n * depth, height, width, channels]."""
    padded = _pad_for_taps(large, g, axes=1)
    depth = g.stride * (g.small_size[0] - 1) + 1
    for a in range(g.kernel):
        yield padded[:, a : a + depth : g.stride].reshape(-1, *large.shape[2:])


def _in_plane(g):
    return dataclasses.replace(g, size=g.size[1:])


def _convolve_planes(large, w, g):
    """A 3D convolution as one in 2D over all planes, with the taps along depth as channels."""
    if g.transposed:
        w = jnp.moveaxis(w, 0, -2).reshape(*w.shape[1:4], -1)
    else:
        w = jnp.moveaxis(w, 0, -3).reshape(*w.shape[1:3], -1, w.shape[-1])
    small = _convolve_native(jnp.concatenate(list(_planes(large, g)), axis=-1), w, _in_plane(g))
    return small.reshape(large.shape[0], *g.small_size, -1)


def _correlate_planes(small, large, g):
    """A 2D kernel gradient over all planes for each tap along depth."""
    small = small.reshape(-1, *small.shape[2:])
    return jnp.stack([_correlate_native(small, x, _in_plane(g)) for x in _planes(large, g)])


def _scatter_reversed(small, w, g):
    """With stride 1 the transpose is a convolution with the kernel reversed."""
    reverse = Geometry(
        g.kernel, 1, g.kernel - 1 - g.padding, g.small_size, transposed=not g.transposed
    )
    return _convolve_cpu(small, jnp.flip(w, range(g.ndim)), reverse)


# The form for the CPU, as measured on 2 cores with batches of 8 to 64 images of 128 x 128 and one
# volume of 32 x 64 x 64. The faster form changes at these numbers of pixels and channels.


def _convolve_cpu(large, w, g):
    channels, pixels = large.shape[-1], math.prod(g.small_size)
    if (channels >= 64 and pixels <= 64) or (g.ndim == 3 and channels < 8):
        return _convolve_taps(large, w, g)
    return (_convolve_planes if g.ndim == 3 else _convolve_native)(large, w, g)


def _scatter_cpu(small, w, g):
    if g.stride == 1 and g.padding < g.kernel:
        return _scatter_reversed(small, w, g)
    if (g.kernel, g.stride, g.padding) != (4, 2, 1) or any(n % 2 for n in g.size):
        return _scatter_native(small, w, g)
    channels = w.shape[-1] if g.transposed else w.shape[-2]
    subpixel = g.ndim == 2 and channels >= 16 and math.prod(g.small_size) > 256
    return (_scatter_subpixel if subpixel else _scatter_shifts)(small, w, g)


def _correlate_cpu(small, large, g):
    if min(small.shape[-1], large.shape[-1]) >= 32:
        return _correlate_taps(small, large, g)
    return (_correlate_planes if g.ndim == 3 else _correlate_native)(small, large, g)


# --- the three maps, chosen by platform, each the derivative of the others -----------------------


def _by_platform(default, a, b, g, **forms):
    forms = {platform: functools.partial(form, g=g) for platform, form in forms.items()}
    return lax.platform_dependent(a, b, **forms, default=functools.partial(default, g=g))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(large, w, g):
    """[n, *g.size, large channels] -> [n, *g.small_size, small channels]."""
    return _by_platform(_convolve_native, large, w, g, cpu=_convolve_cpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scatter(small, w, g):
    """[n, *g.small_size, small channels] -> [n, *g.size, large channels]."""
    return _by_platform(_scatter_native, small, w, g, cpu=_scatter_cpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def correlate(small, large, g):
    """The kernel gradient of both -> [k, ..., in, out]."""
    forms = {"cpu": _correlate_cpu, "cuda": _correlate_cuda}
    return _by_platform(_correlate_native, small, large, g, **forms)


convolve.defvjp(
    lambda large, w, g: (convolve(large, w, g), (large, w)),
    lambda g, saved, t: (scatter(t, saved[1], g), correlate(t, saved[0], g)),
)
scatter.defvjp(
    lambda small, w, g: (scatter(small, w, g), (small, w)),
    lambda g, saved, t: (convolve(t, saved[1], g), correlate(saved[0], t, g)),
)
correlate.defvjp(
    lambda small, large, g: (correlate(small, large, g), (small, large)),
    lambda g, saved, t: (convolve(saved[1], t, g), scatter(saved[0], t, g)),
)
