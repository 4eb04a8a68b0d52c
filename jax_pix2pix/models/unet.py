"""The U-Net generator of pix2pix (Isola et al., CVPR 2017, section 6.1.1)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import LEAKY
from jax_pix2pix.models.attention import AttentionGate, SelfAttention
from jax_pix2pix.models.conv import Conv, ConvTranspose
from jax_pix2pix.models.norm import Norm


class UNet(nn.Module):
    """Halves the image ``depth`` times and doubles it back, with a skip at every level.

    Channels are ``width`` times 1, 2, 4, 8, 8, ... The first level and the last have no norm, nor
    has a bottleneck of one pixel, whose variance is 0. The first ``dropout_levels`` decoder levels
    have dropout, pix2pix's only source of noise. ``use_bias`` applies to all levels but the last.

    Without ``skips`` it is an encoder and a decoder. ``attention_gates`` weigh each skip by the
    decoder's features. Self-attention follows encoder level ``self_attention``, counted from 1,
    whose maps are 2**self_attention times smaller than the image; 0 is off.

    Args of the call:
        x: [n, *spatial, c] in [-1, 1], each side a multiple of 2**depth.
        train: batch statistics on or off.
        dropout: on or off; as ``train`` if not given.

    Returns:
        float32 (float64 from float64 input) [n, *spatial, out_channels] in (-1, 1).
    """

    width: int = 64
    depth: int = 6
    out_channels: int = 1
    norm: str = "instance"
    use_bias: bool = True
    dropout: float = 0.5
    dropout_levels: int = 3
    skips: bool = True
    attention_gates: bool = False
    self_attention: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train, dropout=None):
        dropout = train if dropout is None else dropout
        if any(m % 2**self.depth for m in x.shape[1:-1]):
            raise ConfigError(
                f"image size {x.shape[1:-1]} does not halve {self.depth} times: use a multiple of "
                f"{2**self.depth} or a smaller config.generator.depth"
            )
        if not 0 <= self.self_attention <= self.depth:
            raise ConfigError(
                f"config.generator.self_attention is {self.self_attention}: use 0, or a level up "
                f"to {self.depth}"
            )
        if self.attention_gates and not self.skips:
            raise ConfigError("config.generator.attention_gates need config.generator.skips")
        full_precision = jnp.promote_types(x.dtype, jnp.float32)
        channels = [self.width * min(2**level, 8) for level in range(self.depth)]

        skips = []
        for level, features in enumerate(channels):
            # The first level has no norm, nor has a single pixel, whose variance is 0.
            norm = self.norm if level > 0 and max(x.shape[1:-1]) > 2 else "none"
            x = Conv(
                features,
                use_bias=self.use_bias,
                idle_bias=norm == "instance",
                dtype=self.dtype,
                name=f"encode_{level}",
            )(x)
            x = Norm(norm, self.dtype, LEAKY, name=f"encode_norm_{level}")(x, train=train)
            if level + 1 == self.self_attention:
                x = SelfAttention(self.dtype, name="self_attention")(x)
            skips.append(x)

        skips.pop()
        for number, level in enumerate(reversed(range(self.depth - 1))):
            x = ConvTranspose(
                channels[level],
                use_bias=self.use_bias,
                idle_bias=self.norm == "instance",
                dtype=self.dtype,
                name=f"decode_{level + 1}",
            )(x)
            norm = Norm(self.norm, self.dtype, slope=0.0, name=f"decode_norm_{level + 1}")
            x = norm(x, train=train)
            if number < self.dropout_levels:
                x = nn.Dropout(self.dropout, deterministic=not dropout)(x)
            skip = skips.pop()
            if self.attention_gates:
                skip = AttentionGate(self.norm, self.dtype, name=f"gate_{level}")(
                    skip, x, train=train
                )
            if self.skips:
                x = jnp.concatenate([x, skip], axis=-1)

        x = ConvTranspose(self.out_channels, dtype=self.dtype, name="decode_0")(x)
        return jnp.tanh(x.astype(full_precision))
