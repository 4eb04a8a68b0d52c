"""Activations whose value or gradient differs from Flax's."""

import jax.numpy as jnp

LEAKY = 0.2  # the slope of DCGAN and pix2pix


def leaky_relu(x, slope=LEAKY):
    """x above zero, slope * x elsewhere, with PyTorch's gradient at zero: the slope.

    Flax's has the gradient 1 there. It matters: inside a lung the normalised mask is exactly 0,
    and so is the first layer's response while its bias is 0.
    """
    if slope == 1:
        return x
    return jnp.where(x > 0, x, slope * x)
