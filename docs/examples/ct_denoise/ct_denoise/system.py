"""Low-dose CT -> CT: pix2pix that learns from noise drawn anew in each step."""

import jax
import jax.numpy as jnp

from jax_pix2pix.intensity import scaler
from jax_pix2pix.systems.pix2pix import pix2pix
from jax_pix2pix.tasks.synthesis import synthesis

STEPS_A_HU = 16  # the source is stored in sixteenths of a HU


def build(config):
    """config: config.py beside this, with steps_per_epoch filled in -> System."""
    low, high = config.data.source_range
    deviation = config.noise_hu * STEPS_A_HU / ((high - low) / 2)  # in units of [-1, 1]

    def low_dose(key, source):
        return source + deviation * jax.random.normal(key, source.shape, source.dtype)

    def squared_error(fake, target):
        return jnp.square(fake - target).mean()

    target, output = scaler(config, config.data.window_hu)
    return pix2pix(
        config,
        target,
        output,
        synthesis(config.data.window_hu),
        degrade=low_dose,
        extra_terms={"squared_error": (config.loss.squared_error_weight, squared_error)},
    )
