"""Chest X-ray -> lung mask: a U-Net to one pixel and back, with an adversarial and an L1 loss."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.errors import chosen
from jax_pix2pix.intensity import DTYPES, normaliser
from jax_pix2pix.losses import pix2pix_losses
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.optimizer import adam, constant_then_linear
from jax_pix2pix.segmentation import segmentation


def build(config):
    """config: configs/xray_lungs.py with steps_per_epoch filled in -> System."""
    dtype = chosen(DTYPES, "dtype", config.dtype)
    # The networks see masks in [-1, 1], as tanh gives them.
    task = segmentation(config, classes=1, probabilities=lambda fake: (fake + 1) / 2)

    def target(stored, dtype):
        return 2 * task.network_target(stored, dtype) - 1

    learning_rate = constant_then_linear(config)
    discriminator_loss, generator_loss = pix2pix_losses(config.loss)
    return System(
        generator=UNet(**config.generator, out_channels=1, dtype=dtype),
        discriminator=PatchGAN(**config.discriminator, dtype=dtype),
        generator_optimizer=adam(config, learning_rate),
        discriminator_optimizer=adam(config, learning_rate),
        learning_rate=learning_rate,
        normalise=normaliser(config, target),
        discriminator_loss=discriminator_loss,
        generator_loss=generator_loss,
        task=task,
    )
