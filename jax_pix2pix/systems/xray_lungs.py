"""Chest X-ray -> lung mask: pix2pix, to one pixel and back, with an adversarial and an L1 loss."""

from jax_pix2pix.intensity import full_precision
from jax_pix2pix.systems.pix2pix import pix2pix
from jax_pix2pix.tasks.segmentation import segmentation


def build(config):
    """config: configs/xray_lungs.py with steps_per_epoch filled in -> System."""
    # The networks see masks in [-1, 1], as tanh gives them.
    task = segmentation(config, classes=1, probabilities=lambda fake: (fake + 1) / 2)
    dtype = full_precision(config)

    def target(stored):
        return 2 * task.network_target(stored, dtype) - 1

    return pix2pix(config, target, task.probabilities, task)
