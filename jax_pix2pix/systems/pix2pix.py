"""What systems of a U-Net and a PatchGAN share (pix2pix, Isola et al., CVPR 2017)."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.losses.diff_augment import diff_augment
from jax_pix2pix.errors import chosen
from jax_pix2pix.intensity import DTYPES, normaliser
from jax_pix2pix.losses.terms import pix2pix_losses
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.optimizer import adam, constant_then_linear


def pix2pix(config, target, task):
    """A System with one output channel.

    Args:
        config: of a system, with steps_per_epoch filled in.
        target: (stored target, dtype) -> what the generator should give, in [-1, 1].
        task: Task.
    """
    dtype = chosen(DTYPES, "dtype", config.dtype)
    learning_rate = constant_then_linear(config)
    discriminator_loss, generator_loss = pix2pix_losses(config)
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
        augment=diff_augment(config.diff_augment),
        ema_decay=config.ema_decay,
        spike_sigmas=config.spike_sigmas,
    )
