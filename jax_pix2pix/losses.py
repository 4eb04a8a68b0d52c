"""Losses: scalars, means over all elements, in the type of their inputs."""

import jax.numpy as jnp
import optax
from flax import linen as nn


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
