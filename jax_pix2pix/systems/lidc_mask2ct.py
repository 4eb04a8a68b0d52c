"""Lung mask -> CT slice: a U-Net with an adversarial, an L1 and an SSIM loss."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.errors import chosen
from jax_pix2pix.intensity import DTYPES, normaliser
from jax_pix2pix.losses import ADVERSARIAL, l1
from jax_pix2pix.metrics import ct_metrics
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.optimizer import adam, constant_then_linear
from jax_pix2pix.ssim import SSIM_FORMS


def build(config):
    """config: configs/lidc_mask2ct.py with steps_per_epoch filled in -> System."""
    dtype = chosen(DTYPES, "dtype", config.dtype)
    weights = config.loss
    d_adversarial, g_adversarial = chosen(ADVERSARIAL, "loss.adversarial", weights.adversarial)
    similarity = chosen(SSIM_FORMS, "loss.ssim", weights.ssim)

    def discriminator_loss(discriminate, source, target, fake):
        real_logits = discriminate(source, target)[-1]
        fake_logits = discriminate(source, fake)[-1]
        real_loss = d_adversarial(real_logits, 1.0)
        fake_loss = d_adversarial(fake_logits, 0.0)
        loss = 0.5 * (real_loss + fake_loss)
        return loss, {"loss_D": loss, "D_real": real_loss, "D_fake": fake_loss}

    def generator_loss(discriminate, source, target, fake):
        adversarial = g_adversarial(discriminate(source, fake)[-1], 1.0)
        absolute_error = l1(fake, target)
        ssim = similarity(fake, target).mean()
        loss = (
            weights.adversarial_weight * adversarial
            + weights.l1_weight * absolute_error
            + weights.ssim_weight * (1 - ssim)
        )
        metrics = {"loss_G": loss, "G_adversarial": adversarial, "l1": absolute_error}
        return loss, metrics | {"ssim": ssim}

    metrics, protocols = ct_metrics(config.data.window_hu)
    learning_rate = constant_then_linear(config)
    return System(
        generator=UNet(**config.generator, out_channels=1, dtype=dtype),
        discriminator=PatchGAN(**config.discriminator, dtype=dtype),
        generator_optimizer=adam(config, learning_rate),
        discriminator_optimizer=adam(config, learning_rate),
        learning_rate=learning_rate,
        normalise=normaliser(config),
        discriminator_loss=discriminator_loss,
        generator_loss=generator_loss,
        metrics=metrics,
        protocols=protocols,
        best_metric="ssim",
    )
