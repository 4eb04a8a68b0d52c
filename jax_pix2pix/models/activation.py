"""Activations whose value or gradient differs from Flax's."""

import jax.numpy as jnp


def leaky_relu(x, slope=0.2):
    """x above zero, slope * x elsewhere, with PyTorch's gradient at zero: the slope.

    Flax's has the gradient 1 there. It matters: inside a lung the normalised mask is exactly 0,
    and so is the first layer's response while its bias is 0.
    """
    return jnp.where(x > 0, x, slope * x)
