"""MRI -> synthetic CT, in 2D, 2.5D and 3D: pix2pix with a shallow U-Net, in Hounsfield units."""

from jax_pix2pix.intensity import to_network
from jax_pix2pix.tasks.synthesis import synthesis
from jax_pix2pix.systems.pix2pix import pix2pix


def build(config):
    """config: configs/mri2ct.py with steps_per_epoch filled in -> System."""
    window = config.data.window_hu

    def target(stored, dtype):
        return to_network(stored, window, dtype)

    return pix2pix(config, target, synthesis(window))
