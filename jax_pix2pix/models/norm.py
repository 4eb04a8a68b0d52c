"""Normalisation, with PyTorch's defaults (eps 1e-5), which differ from Flax's."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import leaky_relu

EPSILON = 1e-5


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def instance_norm(x, slope=1.0):
    """Zero mean and unit variance per image and channel (Ulyanov et al. 2016), then activation.

    Args:
        x: [n, *spatial, c].
        slope: of the activation below zero, as in ``leaky_relu``: 1 is none, 0 is ReLU.

    Returns:
        The same shape and type. Statistics are float32 at least, and the variance is taken about
        the mean: E[x**2] - E[x]**2 cancels.
    """
    return _instance_norm(x, slope)[0]


def _instance_norm(x, slope):
    normal, mean, scale = _normal(x)
    return leaky_relu(normal, slope).astype(x.dtype), (x, mean, scale)


def _normal(x, mean=None, scale=None):
    """-> (x standardised in float32 at least, mean, 1 / standard deviation)."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if mean is None:
        spatial = tuple(range(1, x.ndim - 1))
        mean = wide.mean(spatial, keepdims=True)
        scale = lax.rsqrt(jnp.square(wide - mean).mean(spatial, keepdims=True) + EPSILON)
    return (wide - mean) * scale, mean, scale


def _instance_norm_gradient(slope, residuals, dy):
    """Of y = activation(normal): what is constant or along normal within an image drops out.

    Keeps x alone, in its own type, and makes the rest of it again: between this and the
    convolutions, no float32 image goes to memory.
    """
    x, mean, scale = residuals
    normal, _, _ = _normal(x, mean, scale)
    dy = jnp.where(normal > 0, 1, slope) * dy.astype(normal.dtype)
    spatial = tuple(range(1, x.ndim - 1))
    constant = dy.mean(spatial, keepdims=True)
    along = (dy * normal).mean(spatial, keepdims=True)
    return (((dy - constant - normal * along) * scale).astype(x.dtype),)


instance_norm.defvjp(_instance_norm, _instance_norm_gradient)


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
