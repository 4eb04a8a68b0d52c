"""Stored integers <-> network values in [-1, 1] <-> Hounsfield units."""

import functools

import jax.numpy as jnp

from jax_pix2pix.errors import lookup

# config.dtype: the type of the computation; float64 is for tests of gradients.
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float64")}

AIR_HU, BONE_HU = -200, 250  # below: air; above: bone; between: soft tissue


def to_network(stored, stored_range, dtype=jnp.float32):
    """Stored integers [...] -> [-1, 1]: maps the window (low, high) = stored_range to (-1, 1).

    Values outside the window are clipped to it.
    """
    low, high = stored_range
    return (jnp.clip(stored.astype(dtype), low, high) - low) / ((high - low) / 2) - 1


def to_stored(image, stored_range):
    """The inverse of to_network inside the window, not rounded: [-1, 1] -> stored_range."""
    low, high = stored_range
    return (image + 1) * ((high - low) / 2) + low


def scaler(config, stored_range):
    """(stored -> [-1, 1], [-1, 1] -> stored_range), from which a System's fields are made.

    The networks' inputs are cast and scaled on the device, in float32 at least.
    """
    dtype = full_precision(config)
    return (
        functools.partial(to_network, stored_range=stored_range, dtype=dtype),
        functools.partial(to_stored, stored_range=stored_range),
    )


def full_precision(config):
    """The type of the networks' inputs: config.dtype, but float32 at least."""
    return jnp.promote_types(lookup(DTYPES, "dtype", config.dtype), jnp.float32)
