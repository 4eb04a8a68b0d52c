"""The PatchGAN discriminator of pix2pix (Isola et al., CVPR 2017, section 6.1.2)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.models.activation import leaky_relu
from jax_pix2pix.models.conv import Conv
from jax_pix2pix.models.norm import Norm


class PatchGAN(nn.Module):
    """Judges overlapping patches of an image, given its source.

    Three strided convolutions and two dense ones (k4 p1) give each logit a receptive field of 70
    pixels: 128 x 128 images yield 14 x 14 logits. The first level and the last have no norm.

    Args of the call:
        source, image: [n, *spatial, c] in [-1, 1].
        train: batch statistics on or off.

    Returns:
        The feature maps of all levels, [n, *spatial, c] each; the last are the logits in float32
        (float64 from float64 input).
    """

    width: int = 64
    strided_levels: int = 3
    norm: str = "instance"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, source, image, *, train):
        x = jnp.concatenate([source, image], axis=-1)
        full_precision = jnp.promote_types(x.dtype, jnp.float32)
        features = []
        for level in range(self.strided_levels + 1):
            stride = 2 if level < self.strided_levels else 1
            channels = self.width * min(2**level, 8)
            x = Conv(channels, stride=stride, dtype=self.dtype, name=f"level_{level}")(x)
            if level > 0:
                x = Norm(self.norm, self.dtype, name=f"norm_{level}")(x, train=train)
            x = leaky_relu(x)
            features.append(x)
        logits = Conv(1, stride=1, dtype=self.dtype, name="logits")(x)
        return [*features, logits.astype(full_precision)]
