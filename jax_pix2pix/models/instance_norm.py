"""Instance norm followed by the activation, with a derivative that moves few bytes.

To follow training, skip this file: ``instance_norm`` says what it computes, the rest is how.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jax_pix2pix.models.activation import leaky_relu

EPSILON = 1e-5


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def instance_norm(x, slope=1.0):
    """Zero mean and unit variance per image and channel (Ulyanov et al. 2016), then activation.

    Args:
        x: [n, *spatial, c].
        slope: of the activation below zero, as in ``leaky_relu``: 1 is none, 0 is ReLU.

    Returns:
        The same shape and type. Statistics are float32 at least. The variance is taken about the
        mean, since E[x**2] - E[x]**2 cancels.
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
    """Derivative of y = activation(normal), less its parts constant or along normal in an image.

    Keeps only x, in its own type, and recomputes the rest, so that no float32 image goes to memory
    between this and the convolutions.
    """
    x, mean, scale = residuals
    normal, _, _ = _normal(x, mean, scale)
    dy = jnp.where(normal > 0, 1, slope) * dy.astype(normal.dtype)
    spatial = tuple(range(1, x.ndim - 1))
    constant = dy.mean(spatial, keepdims=True)
    along = (dy * normal).mean(spatial, keepdims=True)
    return (((dy - constant - normal * along) * scale).astype(x.dtype),)


instance_norm.defvjp(_instance_norm, _instance_norm_gradient)
