"""Lung mask -> CT slice: a U-Net with an adversarial, an L1 and an SSIM loss."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.errors import chosen
from jax_pix2pix.intensity import DTYPES, normaliser, to_network
from jax_pix2pix.losses import pix2pix_losses
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.optimizer import adam, constant_then_linear
from jax_pix2pix.synthesis import synthesis


def build(config):
    """config: configs/lidc_mask2ct.py with steps_per_epoch filled in -> System."""
    dtype = chosen(DTYPES, "dtype", config.dtype)

    def target(stored, dtype):
        return to_network(stored, config.data.target_range, dtype)

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
        task=synthesis(config.data.window_hu),
    )
