"""Normalisation, with PyTorch's defaults (eps 1e-5), which differ from Flax's."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jax_pix2pix.errors import ConfigError

EPSILON = 1e-5


def instance_norm(x):
    """Zero mean and unit variance per image and channel (Ulyanov et al. 2016), no parameters.

    Args:
        x: [n, *spatial, c].

    Returns:
        The same shape and type. Statistics are float32 at least, and the variance is taken about
        the mean: E[x**2] - E[x]**2 cancels.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    spatial = tuple(range(1, x.ndim - 1))
    centred = wide - wide.mean(spatial, keepdims=True)
    variance = jnp.square(centred).mean(spatial, keepdims=True)
    return (centred * lax.rsqrt(variance + EPSILON)).astype(x.dtype)


class Norm(nn.Module):
    """The normalisation that a config names: "instance", "batch" or "none".

    Batch norm (Ioffe and Szegedy 2015) has a scale and a shift and keeps running statistics in
    the collection ``batch_stats``, which evaluation uses.
    """

    kind: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        if self.kind == "none":
            return x
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=EPSILON,
                dtype=self.dtype,
                scale_init=_scale_init,
                use_fast_variance=False,
            )(x)
        raise ConfigError(f'norm is "{self.kind}": use "instance", "batch" or "none"')


def _scale_init(key, shape, dtype=jnp.float32):
    return 1 + nn.initializers.normal(0.02)(key, shape, dtype)  # DCGAN: N(1, 0.02)
