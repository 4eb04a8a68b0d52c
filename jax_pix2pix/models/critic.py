"""The critic of SegAN (Xue et al., Neuroinformatics 2018): features of a masked image."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import LEAKY
from jax_pix2pix.models.conv import Conv
from jax_pix2pix.models.norm import Norm
from jax_pix2pix.models.resize import adaptive_average_pool

POOLED = 8  # pixels a side of a feature map as the loss sees it
CONSTRAINTS = ("spectral", "clip", "none")


class Critic(nn.Module):
    """Three convolutions k3 at full resolution of the image under a mask.

    Image and mask are multiplied in [0, 1], which makes pixels outside the mask black. In [-1, 1],
    a liver in the usual window lies about 0 and would not differ from masked pixels.

    Args of the call:
        source: [n, *spatial, c] in [-1, 1].
        image: the mask, [n, *spatial, 1] in [0, 1], or classes with the background first.
        train: whether batch statistics and spectral norms' estimates are updated.

    Returns:
        The feature maps of all three layers, each pooled to [n, 8, ..., features], float32 (float64
        from float64 input).
    """

    width: int = 128
    norm: str = "batch"
    # "spectral": each kernel's largest singular value is 1; "clip": by the optimiser; or "none".
    constraint: str = "clip"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, source, image, *, train):
        if self.constraint not in CONSTRAINTS:
            raise ConfigError(
                f'config.discriminator.constraint is "{self.constraint}": use one of '
                f"{', '.join(CONSTRAINTS)}"
            )
        full_precision = jnp.promote_types(source.dtype, jnp.float32)
        # A product for each channel of the source and each class of the foreground.
        masked = ((source + 1) / 2)[..., None] * foreground(image)[..., None, :]
        x = masked.reshape(*source.shape[:-1], -1)
        features = []
        for level, channels in enumerate((self.width, 2 * self.width, 1)):
            last = level == 2
            name = f"level_{level}"
            conv = Conv(channels, 3, stride=1, use_bias=last, dtype=self.dtype, name=name)
            if self.constraint == "spectral":
                x = nn.SpectralNorm(conv, name=f"spectral_norm_{level}")(x, update_stats=train)
            else:
                x = conv(x)
            if not last:
                x = Norm(self.norm, self.dtype, LEAKY, name=f"norm_{level}")(x, train=train)
            features.append(adaptive_average_pool(x, POOLED).astype(full_precision))
        return features


def foreground(masks):
    """Removes the background: [..., 1] is kept, [..., classes] -> [..., classes - 1]."""
    return masks if masks.shape[-1] == 1 else masks[..., 1:]
