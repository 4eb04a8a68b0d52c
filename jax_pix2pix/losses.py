"""Losses: scalars, means over all elements, in the type of their inputs."""

import jax.numpy as jnp
import optax
from flax import linen as nn

from jax_pix2pix.errors import chosen
from jax_pix2pix.ssim import SSIM_FORMS


def binary_cross_entropy(logits, label):
    """Mean cross-entropy of logits [...] against one label, 0 or 1 (Goodfellow et al. 2014)."""
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, label)).mean()


def least_squares(logits, label):
    """LSGAN (Mao et al., ICCV 2017): mean squared distance of logits [...] to the label."""
    return jnp.square(logits - label).mean()


def hinge(logits, label):
    """Hinge loss of the discriminator (Lim and Ye 2017): real beyond 1, fake beyond -1."""
    return nn.relu(1 - logits if label else 1 + logits).mean()


def negative_mean(logits, label):
    """The generator's side of the hinge loss, which has no margin; the label is always real."""
    del label
    return -logits.mean()


# name -> (discriminator's loss, generator's loss), each of (logits, label)
ADVERSARIAL = {
    "bce": (binary_cross_entropy, binary_cross_entropy),
    "lsgan": (least_squares, least_squares),
    "hinge": (hinge, negative_mean),
}


def l1(fake, target):
    """Mean absolute error of two images [n, *spatial, c]."""
    return jnp.abs(fake - target).mean()


def soft_dice(fake, target):
    """Soft Dice loss (Milletari et al., 3DV 2016): 1 - Dice of probabilities, mean over classes.

    A class counts the same however few of the pixels are its, unlike in L1. Sums are over the
    whole batch, and 1 is added to both sides of the ratio, so that a class that is absent and not
    predicted costs nothing.

    Args:
        fake, target: [n, *spatial, classes] in [0, 1], without the background.
    """
    pixels = tuple(range(fake.ndim - 1))
    overlap, total = (fake * target).sum(pixels), (fake + target).sum(pixels)
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def feature_distance(features, others):
    """Multi-scale feature loss (SegAN, Xue et al. 2018): the mean over layers of their L1.

    features, others: lists of feature maps of the same shapes.
    """
    return jnp.stack([l1(a, b) for a, b in zip(features, others, strict=True)]).mean()


def pix2pix_losses(weights):
    """The losses of a conditional GAN with reconstruction terms (Isola et al., CVPR 2017).

    D: discriminator_weight (real + fake); G: adversarial_weight adversarial + l1_weight L1 +
    ssim_weight (1 - SSIM). Without a weight, SSIM is not computed.

    Args:
        weights: config.loss, which also names the forms, ``adversarial`` and ``ssim``.

    Returns:
        (discriminator_loss, generator_loss) of a System.
    """
    d_adversarial, g_adversarial = chosen(ADVERSARIAL, "loss.adversarial", weights.adversarial)
    similarity = chosen(SSIM_FORMS, "loss.ssim", weights.ssim)

    def discriminator_loss(discriminate, source, target, fake):
        real_loss = d_adversarial(discriminate(source, target)[-1], 1.0)
        fake_loss = d_adversarial(discriminate(source, fake)[-1], 0.0)
        loss = weights.discriminator_weight * (real_loss + fake_loss)
        return loss, {"loss_D": loss, "D_real": real_loss, "D_fake": fake_loss}

    def generator_loss(discriminate, source, target, fake):
        adversarial = g_adversarial(discriminate(source, fake)[-1], 1.0)
        absolute_error = l1(fake, target)
        loss = weights.adversarial_weight * adversarial + weights.l1_weight * absolute_error
        metrics = {"G_adversarial": adversarial, "l1": absolute_error}
        if weights.ssim_weight:
            metrics["ssim"] = similarity(fake, target).mean()
            loss = loss + weights.ssim_weight * (1 - metrics["ssim"])
        return loss, {"loss_G": loss} | metrics

    return discriminator_loss, generator_loss
