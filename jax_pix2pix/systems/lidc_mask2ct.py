"""Lung mask -> CT slice: pix2pix with an adversarial, an L1 and an SSIM loss."""

from jax_pix2pix.intensity import scaler
from jax_pix2pix.systems.pix2pix import pix2pix
from jax_pix2pix.tasks.synthesis import synthesis


def build(config):
    """config: configs/lidc_mask2ct.py with steps_per_epoch filled in -> System."""
    to_and_from = scaler(config, config.data.target_range)
    return pix2pix(config, *to_and_from, synthesis(config.data.window_hu))
