"""Optimiser and learning rate of a run."""

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


def adam(config, learning_rate):
    """Adam (Kingma and Ba 2015) with the config's momenta and a rate by step."""
    return optax.adam(learning_rate, b1=config.optimizer.b1, b2=config.optimizer.b2)
