"""Generators and discriminator of one scale of a pyramid (SinGAN, Shaham et al., ICCV 2019).

All are convolutional: they take images of any size. Sizes are tuples of the spatial axes.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.models.activation import LEAKY
from jax_pix2pix.models.conv import Conv, ConvTranspose
from jax_pix2pix.models.norm import Norm

MARGIN = 5  # pixels that are added beyond each border: the reach of five k3 convolutions


class VolumeGenerator(nn.Module):
    """In 3D: ``layers`` convolutions of k3 without padding, and one to an image.

    Args of the call:
        image: [n, *size, c], the coarser scale's output at this size, or zeros.
        noise: [n, *noise_size(size), c], already times its amplitude. It is added to the
            zero-padded image and may be 0 around it, see `models.pyramid.Pyramid`.
        train: batch statistics on or off.

    Returns:
        [n, *size, c] in (-1, 1), of the image's type: the residual to add to the image.
    """

    width: int = 32
    channels: int = 1
    norm: str = "batch"
    dtype: Any = jnp.float32
    layers: int = MARGIN - 1

    def noise_size(self, size):
        """The size of the padded image."""
        return tuple(side + 2 * MARGIN for side in size)

    def __call__(self, image, noise, *, train):
        return self.body(centred(image, noise.shape[1:-1]) + noise, train=train)

    @nn.compact
    def body(self, x, *, train):
        """Takes the padded image with its noise; each output sees the 11 inputs around it."""
        full_precision = x.dtype
        for layer in range(self.layers):
            x = _convolution(self, self.width, f"layer_{layer}", padding=0)(x)
            x = Norm(self.norm, self.dtype, LEAKY, name=f"norm_{layer}")(x, train=train)
        x = Conv(self.channels, 3, 1, 0, dtype=self.dtype, name="image")(x)
        return jnp.tanh(x.astype(full_precision))


class SlabGenerator(nn.Module):
    """In 2D, the slices of a slab as channels: a U-shaped network without skips.

    One convolution to ``width`` channels; ``levels`` times two convolutions and max-pooling; as
    often a transposed convolution and two convolutions; one to the slices. Args and result are as
    for `VolumeGenerator`; the padded size is a multiple of 2**levels, so the noise may be larger.
    """

    width: int = 256
    channels: int = 1
    norm: str = "batch"
    dtype: Any = jnp.float32
    levels: int = 3

    def noise_size(self, size):
        """The size of the padded image."""
        multiple = 2**self.levels
        return tuple(-(-(side + 2 * MARGIN) // multiple) * multiple for side in size)

    def __call__(self, image, noise, *, train):
        y = self.body(centred(image, noise.shape[1:-1]) + noise, train=train)
        starts = _starts(image.shape[1:-1], noise.shape[1:-1])
        inside = [slice(a, a + side) for a, side in zip(starts, image.shape[1:-1], strict=True)]
        return y[:, *inside]

    @nn.compact
    def body(self, x, *, train):
        """Takes the padded image with its noise and keeps its sides, multiples of 2**levels."""
        full_precision = x.dtype

        def twice(x, name):
            for part in ("a", "b"):
                x = _convolution(self, self.width, f"{name}_{part}", padding=1)(x)
                norm = Norm(self.norm, self.dtype, slope=0.0, name=f"{name}_norm_{part}")
                x = norm(x, train=train)
            return x

        x = Conv(self.width, 3, 1, 1, dtype=self.dtype, name="first")(x)
        window = (2,) * (x.ndim - 2)
        for level in range(self.levels):
            x = nn.max_pool(twice(x, f"encode_{level}"), window, window)
        for level in reversed(range(self.levels)):
            x = ConvTranspose(self.width, dtype=self.dtype, name=f"double_{level}")(x)
            x = twice(x, f"decode_{level}")
        x = Conv(self.channels, 3, 1, 1, dtype=self.dtype, name="image")(x)
        return jnp.tanh(x.astype(full_precision))


class ScaleDiscriminator(nn.Module):
    """Zero-padded k3 convolutions: a logit for each pixel, from the 11 pixels around it.

    Args of the call:
        source: ignored, since images are made from noise.
        image: [n, *size, c].
        train: batch statistics on or off.

    Returns:
        The feature maps of all layers, [n, *size, c] each; the last are the logits, of the
        image's type.
    """

    width: int = 16
    layers: int = MARGIN - 1
    norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, source, image, *, train):
        del source
        x, features = image, []
        for layer in range(self.layers):
            x = _convolution(self, self.width, f"layer_{layer}", padding=1)(x)
            x = Norm(self.norm, self.dtype, LEAKY, name=f"norm_{layer}")(x, train=train)
            features.append(x)
        logits = Conv(1, 3, 1, 1, dtype=self.dtype, name="logits")(x)
        return [*features, logits.astype(image.dtype)]


def _convolution(module, features, name, padding):
    """A k3 convolution; it has a bias only if no norm follows, since a norm would remove it."""
    use_bias = module.norm == "none"
    return Conv(features, 3, 1, padding, use_bias=use_bias, dtype=module.dtype, name=name)


def _starts(size, padded):
    return [(outer - side) // 2 for side, outer in zip(size, padded, strict=True)]


def centred(image, padded):
    """Centres the image in zeros: [n, *size, c] -> [n, *padded, c]."""
    size = image.shape[1:-1]
    widths = [
        (a, outer - side - a)
        for a, side, outer in zip(_starts(size, padded), size, padded, strict=True)
    ]
    return jnp.pad(image, [(0, 0), *widths, (0, 0)])
