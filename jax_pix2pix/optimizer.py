"""Optimiser and learning rate of a run."""

import jax
import jax.numpy as jnp
import optax

from jax_pix2pix.errors import ConfigError


def constant_then_linear(config):
    """The learning rate by step: constant for constant_epochs, then linear to 0 at epochs."""
    decay_epochs = config.epochs - config.constant_epochs
    if decay_epochs < 0:
        raise ConfigError(
            f"constant_epochs={config.constant_epochs} is more than epochs={config.epochs}"
        )
    return optax.polynomial_schedule(
        init_value=config.optimizer.learning_rate,
        end_value=0.0,
        power=1,
        transition_steps=decay_epochs * config.steps_per_epoch,
        transition_begin=config.constant_epochs * config.steps_per_epoch,
    )


def constant_then_tenth(config):
    """The learning rate by step: constant, and a tenth of it in the last fifth of the steps."""
    steps = config.epochs * config.steps_per_epoch
    return optax.piecewise_constant_schedule(config.optimizer.learning_rate, {4 * steps // 5: 0.1})


def adam(config, learning_rate, updates=1):
    """Adam (Kingma and Ba 2015) with the config's momenta; its rate steps once in ``updates``."""

    def rate(update):
        return learning_rate(jnp.floor_divide(update, updates))

    return optax.adam(rate, config.optimizer.b1, config.optimizer.b2)


def clipped(optimizer, limit):
    """The optimizer, with every parameter clipped to [-limit, limit] after each update.

    The critics of a Wasserstein GAN (Arjovsky et al., ICML 2017) and of SegAN use this: maximising
    a difference of features needs bounded weights.
    """

    def update(updates, state, params=None):
        updates, state = optimizer.update(updates, state, params)
        inside = jax.tree.map(lambda p, u: jnp.clip(p + u, -limit, limit) - p, params, updates)
        return inside, state

    return optax.GradientTransformation(optimizer.init, update)
