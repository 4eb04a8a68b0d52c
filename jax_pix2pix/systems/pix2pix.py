"""Common parts of systems with a U-Net and a PatchGAN (pix2pix, Isola et al., CVPR 2017)."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.augmentation import augmentation
from jax_pix2pix.errors import lookup
from jax_pix2pix.intensity import DTYPES, scaler
from jax_pix2pix.losses.diff_augment import diff_augment
from jax_pix2pix.losses.terms import pix2pix_losses
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.optimizer import adam, constant_then_linear


def pix2pix(config, target, output, task, degrade=None, extra_terms=None):
    """A System with one output channel.

    Args:
        config: a system's, with steps_per_epoch filled in.
        target: stored target -> what the generator should output, in [-1, 1].
        output: generator's output -> physical values, see System.
        task: Task.
        degrade: see System.
        extra_terms: {name: (weight, (fake, target) -> scalar)} of G's loss, besides config.loss's;
            a term of weight 0 is not computed.
    """
    dtype = lookup(DTYPES, "dtype", config.dtype)
    learning_rate = constant_then_linear(config)
    discriminator_loss, generator_loss = pix2pix_losses(config, extra_terms)
    source, _ = scaler(config, config.data.source_range)
    return System(
        generator=UNet(**config.generator, out_channels=1, dtype=dtype),
        discriminator=PatchGAN(**config.discriminator, dtype=dtype),
        generator_optimizer=adam(config, learning_rate),
        discriminator_optimizer=adam(config, learning_rate),
        learning_rate=learning_rate,
        source=source,
        target=target,
        output=output,
        discriminator_loss=discriminator_loss,
        generator_loss=generator_loss,
        task=task,
        degrade=degrade,
        augmentation=augmentation(config),
        augment=diff_augment(config.diff_augment),
        ema_decay=config.ema_decay,
        spike_sigmas=config.spike_sigmas,
        accumulate=config.accumulate,
    )
