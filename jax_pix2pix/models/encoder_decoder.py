"""An encoder-decoder without skips for segmentation: the segmentor of the liver system."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import LEAKY
from jax_pix2pix.models.conv import Conv
from jax_pix2pix.models.norm import Norm
from jax_pix2pix.models.resize import nearest_twice

LEVELS = 4  # number of times that the image is halved


class EncoderDecoder(nn.Module):
    """Four strided convolutions, then three of k3, each followed by nearest-neighbour doubling.

    Channels are ``width`` times 1, 2, 4, 8 and back to 1. The first level has no norm.

    Args of the call:
        x: [n, *spatial, c] in [-1, 1], each side a multiple of 16.
        train: batch statistics on or off.

    Returns:
        float32 (float64 from float64 input) [n, *spatial, classes] in [0, 1]: for one class the
        probability of the foreground, for more that of each class, the background first. With
        ``output`` "relu" the last map is computed at half the size, is not bounded above and is
        then doubled, so that it consists of blocks of 2 pixels a side.
    """

    width: int = 64
    classes: int = 1
    norm: str = "batch"
    output: str = "probability"  # or "relu", as published
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        if any(m % 2**LEVELS for m in x.shape[1:-1]):
            raise ConfigError(
                f"image size {x.shape[1:-1]} does not halve {LEVELS} times: use multiples of "
                f"{2**LEVELS} for config.data.image_size, patch_size and depth"
            )
        full_precision = jnp.promote_types(x.dtype, jnp.float32)
        for level in range(LEVELS):
            name = f"encode_{level}"
            x = Conv(self.width * 2**level, use_bias=level == 0, dtype=self.dtype, name=name)(x)
            norm = self.norm if level > 0 else "none"
            x = Norm(norm, self.dtype, LEAKY, name=f"encode_norm_{level}")(x, train=train)

        def convolve(x, features, name, use_bias):
            return Conv(
                features, kernel=3, stride=1, use_bias=use_bias, dtype=self.dtype, name=name
            )(x)

        for level in reversed(range(LEVELS - 1)):
            x = convolve(x, self.width * 2**level, f"decode_{level + 1}", use_bias=False)
            norm = Norm(self.norm, self.dtype, slope=0.0, name=f"decode_norm_{level + 1}")
            x = nearest_twice(norm(x, train=train))

        if self.output == "relu":
            if self.classes > 1:
                raise ConfigError('config.generator.output="relu" has one class, not several')
            return nearest_twice(nn.relu(convolve(x, 1, "decode_0", True).astype(full_precision)))
        if self.output != "probability":
            raise ConfigError(
                f'config.generator.output is "{self.output}": use "probability" or "relu"'
            )
        logits = convolve(nearest_twice(x), self.classes, "decode_0", True).astype(full_precision)
        return jax.nn.sigmoid(logits) if self.classes == 1 else jax.nn.softmax(logits)
