"""Normalisation, with PyTorch's defaults (eps 1e-5), which differ from Flax's."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import leaky_relu
from jax_pix2pix.models.instance_norm import EPSILON, instance_norm


class Norm(nn.Module):
    """The normalisation that a config names, "instance", "batch" or "none", and the activation.

    ``slope`` is the activation's below zero: 1 is none, 0.2 a leaky ReLU, 0 a ReLU. Batch norm
    (Ioffe and Szegedy 2015) has a scale and a shift and keeps running statistics in the collection
    ``batch_stats``, which evaluation uses.
    """

    kind: str
    dtype: Any = jnp.float32
    slope: float = 1.0

    @nn.compact
    def __call__(self, x, *, train) -> Any:
        if self.kind == "none":
            return leaky_relu(x, self.slope)
        if self.kind == "instance":
            return instance_norm(x, self.slope)
        if self.kind == "batch":
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=EPSILON,
                dtype=self.dtype,
                scale_init=_scale_init,
                use_fast_variance=False,
            )(x)
            return leaky_relu(x, self.slope)
        raise ConfigError(f'norm is "{self.kind}": use "instance", "batch" or "none"')


def _scale_init(key, shape, dtype=jnp.float32):
    return 1 + nn.initializers.normal(0.02)(key, shape, dtype)  # DCGAN: N(1, 0.02)
