"""The PatchGAN discriminator of pix2pix (Isola et al., CVPR 2017, section 6.1.2)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import LEAKY
from jax_pix2pix.models.conv import Conv
from jax_pix2pix.models.norm import Norm


class PatchGAN(nn.Module):
    """Judges overlapping patches of an image, given its source.

    ``strided_levels`` convolutions have stride 2; ``dense_levels`` and one to the logits then have
    stride 1. All are k4 p1. With three and one, each logit has a receptive field of 70 pixels, and
    128 x 128 images yield 14 x 14 logits. The first level and the last have no norm.

    With several ``scales``, as many networks see the pair at full size, half size and so on
    (pix2pixHD, Wang et al., CVPR 2018). ``spectral_norm`` divides each kernel by an estimate of its
    largest singular value (Miyato et al., ICLR 2018).

    Args of the call:
        source, image: [n, *spatial, c] in [-1, 1].
        train: whether batch statistics and spectral norms' estimates are updated.

    Returns:
        The feature maps of all levels, [n, *spatial, c] each; the last are the logits in float32
        (float64 from float64 input). With several scales, each is a tuple of one map a scale.
    """

    width: int = 64
    strided_levels: int = 3
    dense_levels: int = 1
    norm: str = "instance"
    spectral_norm: bool = False
    scales: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, source, image, *, train):
        x = jnp.concatenate([source, image], axis=-1)
        smallest = min(x.shape[1:-1]) >> max(self.scales - 1, 0)
        if self.scales < 1 or (smallest >> self.strided_levels) - self.dense_levels < 2:
            raise ConfigError(
                f"config.discriminator with {self.scales} scales, {self.strided_levels} "
                f"strided_levels and {self.dense_levels} dense_levels leaves no logits of images "
                f"of {x.shape[1:-1]} pixels: use at least one scale, and fewer levels"
            )
        if self.scales == 1:
            return self._features(x, "", train)
        by_scale = []
        for scale in range(self.scales):
            by_scale.append(self._features(x, f"scale_{scale}_", train))
            x = nn.avg_pool(x, (2,) * (x.ndim - 2), (2,) * (x.ndim - 2))
        return list(zip(*by_scale, strict=True))

    def _features(self, x, prefix, train):
        full_precision = jnp.promote_types(x.dtype, jnp.float32)

        def convolve(channels, stride, name, x, idle_bias=False):
            conv = Conv(
                channels,
                stride=stride,
                idle_bias=idle_bias,
                dtype=self.dtype,
                name=prefix + name,
            )
            if self.spectral_norm:
                return nn.SpectralNorm(conv, name=f"{prefix}spectral_{name}")(x, update_stats=train)
            return conv(x)

        features = []
        for level in range(self.strided_levels + self.dense_levels):
            stride = 2 if level < self.strided_levels else 1
            channels = self.width * min(2**level, 8)
            norm = self.norm if level > 0 else "none"
            x = convolve(channels, stride, f"level_{level}", x, idle_bias=norm == "instance")
            x = Norm(norm, self.dtype, LEAKY, name=f"{prefix}norm_{level}")(x, train=train)
            features.append(x)
        return [*features, convolve(1, 1, "logits", x).astype(full_precision)]
