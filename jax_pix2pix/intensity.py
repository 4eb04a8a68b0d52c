"""Stored integers <-> network values in [-1, 1] <-> Hounsfield units."""

import jax.numpy as jnp

# config.dtype: the type of the computation; float64 is for tests of gradients.
DTYPES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float64")}

AIR_HU, BONE_HU = -200, 250  # below: air; above: bone; between: soft tissue


def to_network(stored, stored_range, dtype=jnp.float32):
    """Stored integers [...] -> [-1, 1]: (low, high) = stored_range, the window, to (-1, 1).

    What lies outside of the window is clipped to it.
    """
    low, high = stored_range
    return (jnp.clip(stored.astype(dtype), low, high) - low) / ((high - low) / 2) - 1


def to_stored(image, stored_range):
    """The inverse of to_network inside the window, not rounded: [-1, 1] -> stored_range."""
    low, high = stored_range
    return (image + 1) * ((high - low) / 2) + low


def normaliser(config, target):
    """A System's ``normalise``: casts and scales a stored batch, on the device.

    config: a run's config, of which dtype and data.source_range are read.
    target: (stored target, dtype) -> what the generator should give.
    """
    dtype = jnp.promote_types(config.dtype, jnp.float32)

    def normalise(batch):
        source = to_network(batch["source"], config.data.source_range, dtype)
        return source, target(batch["target"], dtype)

    return normalise
