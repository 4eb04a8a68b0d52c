"""Stored integers <-> network values in [-1, 1] <-> Hounsfield units."""

import jax.numpy as jnp

# config.dtype: the type of the computation; float64 is for tests of gradients.
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float64")}


def to_network(stored, stored_range, dtype=jnp.float32):
    """Stored integers [...] -> [-1, 1], where stored_range = (low, high) maps to (-1, 1)."""
    low, high = stored_range
    return (stored.astype(dtype) - low) / ((high - low) / 2) - 1


def to_stored(image, stored_range):
    """The inverse of to_network, not rounded: [-1, 1] -> stored_range."""
    low, high = stored_range
    return (image + 1) * ((high - low) / 2) + low


def normaliser(config):
    """A System's ``normalise``: casts and scales a stored batch, on the device.

    config: a run's config, of which data.source_range and data.target_range are read.
    """
    dtype = jnp.promote_types(config.dtype, jnp.float32)

    def normalise(batch):
        source = to_network(batch["source"], config.data.source_range, dtype)
        target = to_network(batch["target"], config.data.target_range, dtype)
        return source, target

    return normalise
