"""Lung mask -> CT slice: pix2pix with an adversarial, an L1 and an SSIM loss."""

from jax_pix2pix.intensity import to_network
from jax_pix2pix.tasks.synthesis import synthesis
from jax_pix2pix.systems.pix2pix import pix2pix


def build(config):
    """config: configs/lidc_mask2ct.py with steps_per_epoch filled in -> System."""

    def target(stored, dtype):
        return to_network(stored, config.data.target_range, dtype)

    return pix2pix(config, target, synthesis(config.data.window_hu))
