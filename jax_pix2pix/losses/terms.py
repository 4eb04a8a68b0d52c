"""Losses: scalars, means over all elements, in the type of their inputs."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jax_pix2pix.errors import ConfigError, lookup
from jax_pix2pix.intensity import AIR_HU, BONE_HU
from jax_pix2pix.losses.gradient_penalties import gradient_penalty, r1_penalty
from jax_pix2pix.losses.perceptual import perceptual_distance
from jax_pix2pix.metrics.ssim import SSIM_FORMS, ms_ssim

SOFTNESS_HU = 25  # at this distance from an edge, a pixel's membership of its side is 0.73


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
    """The generator's side of hinge and Wasserstein losses, without a margin; the label is real."""
    del label
    return -logits.mean()


def wasserstein(logits, label):
    """The critic's side of the Wasserstein distance (Arjovsky et al., ICML 2017): real - fake."""
    return -logits.mean() if label else logits.mean()


# name -> (discriminator's loss, generator's loss), each of (logits, label)
ADVERSARIAL = {
    "bce": (binary_cross_entropy, binary_cross_entropy),
    "lsgan": (least_squares, least_squares),
    "hinge": (hinge, negative_mean),
    "wgan": (wasserstein, negative_mean),
}


def l1(fake, target):
    """Mean absolute error of two images [n, *spatial, c]."""
    return jnp.abs(fake - target).mean()


def soft_dice(fake, target):
    """Soft Dice loss (Milletari et al., 3DV 2016): 1 - Dice of probabilities, mean over classes.

    Each class counts the same, however few pixels it has, unlike in L1. Sums are over the whole
    batch. 1 is added to numerator and denominator, so that a class that is absent and not
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


def feature_matching(features, real_features):
    """Distance of D's hidden layers on fake and real (pix2pixHD, Wang et al., CVPR 2018)."""
    hidden, real_hidden = jax.tree.leaves(features[:-1]), jax.tree.leaves(real_features[:-1])
    return feature_distance(hidden, jax.lax.stop_gradient(real_hidden))


def logits_of_both(discriminate, source, real, fake):
    """D's logits of real and of fake images, in one pass over both.

    Each fake comes next to its real image, so that no image moves to another device.
    """
    sources, images = (
        jnp.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:])
        for pair in ((source, source), (real, fake))
    )
    logits = discriminate(sources, images)[-1]
    return tuple(
        jax.tree.map(lambda x, i=i: x.reshape(-1, 2, *x.shape[1:])[:, i], logits) for i in (0, 1)
    )


def intensity_projections(fake, real):
    """Squared difference of mean- and of maximum-intensity projections, mean over three axes.

    fake, real: volumes [n, d, h, w, c].
    """
    terms = [
        jnp.square(project(fake, axis) - project(real, axis)).mean()
        for axis in (1, 2, 3)
        for project in (jnp.mean, jnp.max)
    ]
    return jnp.stack(terms).mean()


def boundary_slices(fake, real):
    """Squared difference of the first slices along the three axes: CT-GAN's published projection.

    fake, real: volumes [n, d, h, w, c].
    """
    terms = [
        jnp.square(jnp.take(fake, 0, axis) - jnp.take(real, 0, axis)).mean() for axis in (1, 2, 3)
    ]
    return jnp.stack(terms).mean()


PROJECTIONS = {"intensity": intensity_projections, "boundary_slices": boundary_slices}


def gradient_difference(fake, target):
    """Squared difference of absolute gradients, mean over axes (Nie et al., MICCAI 2017).

    fake, target: [n, *spatial, c]; gradients are differences of neighbours.
    """
    terms = [
        jnp.square(jnp.abs(jnp.diff(fake, axis=axis)) - jnp.abs(jnp.diff(target, axis=axis))).mean()
        for axis in range(1, fake.ndim - 1)
    ]
    return jnp.stack(terms).mean()


def structure_dice(window_hu):
    """Soft Dice loss of air, soft tissue and bone of a synthetic CT whose [-1, 1] is window_hu.

    A pixel lies above an edge with probability sigmoid((HU - edge) / SOFTNESS_HU), which, unlike a
    threshold, has a gradient. Squares in the denominator (Milletari et al., 3DV 2016) make the loss
    0 for equal images, though memberships are fuzzy.

    Returns:
        (fake, target), [n, *spatial, 1] -> scalar.
    """
    low, high = window_hu

    def memberships(image):
        hu = (image + 1) / 2 * (high - low) + low
        above = [nn.sigmoid((hu - edge) / SOFTNESS_HU) for edge in (AIR_HU, BONE_HU)]
        return jnp.concatenate([1 - above[0], above[0] - above[1], above[1]], axis=-1)

    def loss(fake, target):
        fake, target = memberships(fake), memberships(target)
        pixels = tuple(range(fake.ndim - 1))
        squares = (jnp.square(fake) + jnp.square(target)).sum(pixels)
        return (1 - (2 * (fake * target).sum(pixels) + 1) / (squares + 1)).mean()

    return loss


def pix2pix_losses(config, extra_terms=None):
    """The losses of a conditional GAN with reconstruction terms (Isola et al., CVPR 2017).

    D: discriminator_weight (real + fake) + r1_weight R1 + gradient_penalty_weight WGAN-GP. G:
    adversarial_weight adversarial + l1_weight L1 + the other weighted terms of config.loss. These,
    R1 and WGAN-GP are not computed if their weight is 0.

    Args:
        config: a run's; the structures' term needs data.window_hu, soft Dice evaluation.regions.
        extra_terms: {name: (weight, (fake, target) -> scalar)} of G's loss, or None.

    Returns:
        (discriminator_loss, generator_loss) of a System.
    """
    weights = config.loss
    d_adversarial, g_adversarial = lookup(ADVERSARIAL, "loss.adversarial", weights.adversarial)
    distances, similarities = _image_terms(config)
    distances |= {name: term for name, term in (extra_terms or {}).items() if term[0]}

    def over_scales(loss, logits, label):
        return jnp.stack([loss(x, label) for x in jax.tree.leaves(logits)]).mean()

    # Possible if D judges each image by itself, unlike with batch norm.
    in_one_pass = (
        config.discriminator.norm in ("instance", "none")
        and not config.discriminator.spectral_norm
        and not config.diff_augment
    )

    def discriminator_loss(discriminate, source, target, fake, key):
        if in_one_pass:
            real_logits, fake_logits = logits_of_both(discriminate, source, target, fake)
        else:
            real_logits, fake_logits = (discriminate(source, x)[-1] for x in (target, fake))
        real_loss = over_scales(d_adversarial, real_logits, 1.0)
        fake_loss = over_scales(d_adversarial, fake_logits, 0.0)
        loss = weights.discriminator_weight * (real_loss + fake_loss)
        metrics = {"D_real": real_loss, "D_fake": fake_loss}
        if weights.r1_weight:
            metrics["r1"] = r1_penalty(discriminate, source, target)
            loss = loss + weights.r1_weight * metrics["r1"]
        if weights.gradient_penalty_weight:
            penalty = gradient_penalty(discriminate, source, target, fake, key)
            metrics["gradient_penalty"] = penalty
            loss = loss + weights.gradient_penalty_weight * penalty
        return loss, {"loss_D": loss} | metrics

    def generator_loss(discriminate, source, target, fake):
        features = discriminate(source, fake)
        metrics = {
            "G_adversarial": over_scales(g_adversarial, features[-1], 1.0),
            "l1": l1(fake, target),
        }
        loss = weights.adversarial_weight * metrics["G_adversarial"]
        loss = loss + weights.l1_weight * metrics["l1"]
        for name, (weight, distance) in distances.items():
            metrics[name] = distance(fake, target)
            loss = loss + weight * metrics[name]
        for name, (weight, similarity) in similarities.items():
            metrics[name] = similarity(fake, target).mean()
            loss = loss + weight * (1 - metrics[name])
        if weights.feature_matching_weight:
            real_features = discriminate(source, target)
            metrics["feature_matching"] = feature_matching(features, real_features)
            loss = loss + weights.feature_matching_weight * metrics["feature_matching"]
        return loss, {"loss_G": loss} | metrics

    return discriminator_loss, generator_loss


def _image_terms(config):
    """({name: (weight, distance)}, {name: (weight, similarity)}) of the terms in use."""
    weights = config.loss
    similarity = lookup(SSIM_FORMS, "loss.ssim", weights.ssim)
    distances, similarities = {}, {}
    if weights.gradient_weight:
        distances["gradient_difference"] = weights.gradient_weight, gradient_difference
    if weights.dice_weight:
        if "regions" not in config.get("evaluation", {}):
            raise ConfigError("config.loss.dice_weight needs masks as targets: set it to 0")
        distances["soft_dice"] = (
            weights.dice_weight,
            lambda fake, target: soft_dice((fake + 1) / 2, (target + 1) / 2),
        )
    if weights.structure_weight:
        if "window_hu" not in config.data:
            raise ConfigError("config.loss.structure_weight needs a target in HU: set it to 0")
        structures = structure_dice(config.data.window_hu)
        distances["structures"] = weights.structure_weight, structures
    if weights.perceptual_weight:
        perceptual = perceptual_distance(weights.perceptual_weights_file)
        distances["perceptual"] = weights.perceptual_weight, perceptual
    if weights.ssim_weight:
        similarities["ssim"] = weights.ssim_weight, similarity
    if weights.ms_ssim_weight:
        scales = functools.partial(ms_ssim, levels=weights.ms_ssim_levels)
        similarities["ms_ssim"] = weights.ms_ssim_weight, scales
    return distances, similarities
