"""MRI -> synthetic CT, in 2D, 2.5D and 3D: pix2pix with a shallow U-Net, in Hounsfield units."""

from jax_pix2pix.intensity import scaler
from jax_pix2pix.systems.pix2pix import pix2pix
from jax_pix2pix.tasks.synthesis import synthesis


def build(config):
    """config: configs/mri2ct.py with steps_per_epoch filled in -> System."""
    window = config.data.window_hu
    return pix2pix(config, *scaler(config, window), synthesis(window))
