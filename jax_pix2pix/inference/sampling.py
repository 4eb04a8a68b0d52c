"""Samples a trained pyramid at any size: from noise to an image, scale by scale.

`models.pyramid.Pyramid` computes whole images of the sizes of training. Here images stay in host
memory, and one block at a time is on the device.
"""

import functools
import math
from typing import Any

import jax
import numpy as np

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.inference.blocks import Field, by_blocks
from jax_pix2pix.models.pyramid import scale_variables
from jax_pix2pix.models.resize import interpolation
from jax_pix2pix.models.scale_net import MARGIN, SlabGenerator

BLOCK_VALUES = 2**24  # in one layer of a block: 64 MB in float32; memory holds a few layers
WHOLE_VALUES = 2**27  # in one layer of an image that cannot be cut


def sample(
    config,
    system,
    generator,
    key,
    size=None,
    from_scale=0,
    image=None,
    reconstruct=None,
    block_values=BLOCK_VALUES,
):
    """Makes one volume.

    The noise of a voxel does not depend on the blocks. Instance norm needs the statistics of the
    whole image, which is then one block.

    Args:
        config, system, generator: of a pyramid's run with any number of scales.
        key: of the noise.
        size: (d, h, w) of the volume, in 2D (h, w); by default that of training. Coarser scales
            are smaller in proportion.
        from_scale: the first scale that gets noise. Above 0, `image` replaces the scale before it,
            as in SinGAN's injection: coarser detail stays, finer detail is made anew.
        image: [d, h, w] in [-1, 1], of any size.
        reconstruct: z_rec [*noise_size, c], as `system.normalise` gives it for a training volume.
            It replaces the noise of the coarsest scale; finer scales get none.
        block_values: the most values of a block's layer, where the receptive field allows that.

    Returns:
        NumPy float32 [d, h, w] in [-1, 1].

    Raises:
        ConfigError: there is no such scale, z_rec is of another size, or the image is too large to
            be one block.
    """
    net, scales = system.generator.net, scale_variables(generator)
    amplitudes = np.asarray(generator.frozen["amplitudes"], np.float32)
    sizes = output_sizes(system.generator.sizes, size or system.generator.sizes[-1])
    shapes = [(*net.noise_size(size), net.channels) for size in sizes]
    flat = config.pyramid.dimensions == 2
    if not 0 <= from_scale < len(sizes):
        raise ConfigError(f"from_scale={from_scale}: use 0 to {len(sizes) - 1}")
    if reconstruct is not None and reconstruct.shape != shapes[0]:
        raise ConfigError("fixed noise is of the size of training: leave size out")
    volume = None
    if from_scale:
        assert image is not None
        coarser = (net.channels,) * flat + sizes[from_scale - 1]
        volume = _resized(np.asarray(image[..., None], np.float32), coarser)
        volume = np.moveaxis(volume[..., 0], 0, -1) if flat else volume
    for number in range(from_scale, len(sizes)):
        if reconstruct is None:
            *total, _ = shapes[number]
            noisy = _middle(total if system.generator.border_noise else sizes[number], total)
            own_key = jax.random.fold_in(key, number)
            noise = _drawn(own_key, amplitudes[number], shapes[number], noisy)
        else:
            fixed = amplitudes[0] * reconstruct if number == 0 else np.zeros(1, np.float32)
            noise = _fixed(np.broadcast_to(fixed, shapes[number]))
        volume = _scale(net, scales[number], volume, sizes[number], noise, block_values)
    assert volume is not None  # of the last scale
    return np.clip(np.moveaxis(volume, -1, 0) if flat else volume[..., 0], -1, 1)


def output_sizes(trained, size):
    """Computes the scales' sizes for an image of this size, in the proportions of training.

    Args:
        trained: the scales' sizes in training, tuples, coarsest first.
        size: of the finest scale.

    Returns:
        Tuples, to the nearest pixel and at least one.
    """
    return [
        tuple(
            max((2 * side * coarse + fine) // (2 * fine), 1)
            for side, coarse, fine in zip(size, sides, trained[-1], strict=True)
        )
        for sides in trained
    ]


def field(net):
    """Computes the blocks.Field of a generator of `scale_net`."""
    if not isinstance(net, SlabGenerator):
        return Field(halo=MARGIN, shrink=MARGIN)
    # low to high are the pixels that a grid cell's outputs depend on, from the last layer back.
    grid = 2**net.levels
    low, high = -1, grid  # the last convolution
    for _ in range(net.levels):
        low, high = low - 2, high + 2  # two convolutions of k3
        low, high = -(-(low - 2) // 2), (high + 1) // 2  # a transposed one of k4, stride 2
    for _ in range(net.levels):
        low, high = 2 * low - 2, 2 * high + 1 + 2  # max-pooling after two of k3
    low, high = low - 1, high + 1
    reach = max(-low, high - (grid - 1))
    return Field(halo=-(-reach // grid) * grid, grid=grid)


def _scale(net, variables, coarser, size, noise, block_values):
    """Computes one scale's image, float32 [*size, c], as Pyramid does.

    Args:
        coarser: the image before it, float32 [*sides, c], or None at the coarsest scale.
        noise: (start, stop) -> its planes, float32 [stop - start, *net.noise_size(size)[1:], c].
    """
    total, reach = net.noise_size(size), field(net)
    values = math.prod(total) * net.width
    if net.norm == "instance":
        if values > WHOLE_VALUES:
            raise ConfigError(
                f"instance norm needs a scale of {' x '.join(map(str, size))} at once, which has "
                f"{math.prod(total)} pixels with its border, above {WHOLE_VALUES // net.width}: "
                "use a smaller size"
            )
        block_values = values
    middle = _middle(size, total)

    def planes(start, stop):
        padded = noise(start, stop)
        if coarser is not None:
            first, last = (min(max(i - middle[0].start, 0), size[0]) for i in (start, stop))
            padded[_among(middle, start)] += _resized(coarser, size, first, last)
        return padded

    def apply(block):
        return _body(net, variables, block)

    result: Any = by_blocks(apply, planes, total, reach, block_values // net.width)
    result = result[tuple(slice(a.start - reach.shrink, a.stop - reach.shrink) for a in middle)]
    if coarser is not None:
        for i, plane in enumerate(result):
            plane += _resized(coarser, size, i, i + 1)[0]
    return result


@functools.partial(jax.jit, static_argnums=0)
def _body(net, variables, block):
    return net.apply(variables, block, train=False, method="body")


def _middle(size, total):
    """Locates an image of this size in its padded one: slices."""
    starts = ((outer - side) // 2 for side, outer in zip(size, total, strict=True))
    return tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))


def _among(middle, start):
    """Shifts the slices of `_middle` to planes that begin at the number `start`."""
    rows, *others = middle
    return slice(max(rows.start - start, 0), max(rows.stop - start, 0)), *others


def _drawn(key, amplitude, shape, noisy):
    """Draws normal noise of a padded image, 0 outside of `noisy`, as a function of planes.

    Each plane has its own key.
    """

    def planes(start, stop):
        drawn = np.stack([_normal(key, i, shape[1:]) for i in range(start, stop)])
        noise, inside = np.zeros_like(drawn), _among(noisy, start)
        noise[inside] = amplitude * drawn[inside]
        return noise

    return planes


@functools.partial(jax.jit, static_argnums=2)
def _normal(key, plane, shape):
    return jax.random.normal(jax.random.fold_in(key, plane), shape, np.float32)


def _fixed(noise):
    """Turns given noise into a function of planes."""
    return lambda start, stop: np.array(noise[start:stop], np.float32)


def _resized(image, size, start=0, stop=None):
    """Computes planes [start, stop) along the first axis of `models.resize.resize_linear`.

    Args:
        image: float32 [*sides, c].

    Returns:
        float32 [stop - start, *size[1:], c].
    """
    for axis, length in enumerate(size):
        weights = interpolation(image.shape[axis], length).astype(np.float32)
        if axis == 0:
            weights = weights[start:stop]
            used = np.flatnonzero(weights.any(0))
            used = slice(used.min(initial=0), used.max(initial=0) + 1)
            weights, image = weights[:, used], image[used]
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image
