"""One adversarial training step for every system: D, then G, with one forward pass of G.

A ``System`` holds all that differs between systems. Its losses see images and a function
``discriminate(source, image) -> feature maps``, never parameters, so that a gradient penalty or a
feature-matching loss needs nothing else from the step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jax_pix2pix.task import Task


@flax.struct.dataclass
class Network:
    """What training changes in one network: three pytrees."""

    params: Any
    batch_stats: Any  # running statistics; empty without batch norm
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint holds. ``step`` counts finished steps; it is the only loop state."""

    step: jax.Array
    generator: Network
    discriminator: Network


@dataclasses.dataclass(frozen=True)
class System:
    """A pair of networks, how they are optimised and what they are trained for.

    normalise: stored batch {name: integers [n, *spatial, c]} -> (source, target) as the networks
        see them.
    discriminator_loss, generator_loss: (discriminate, source, target, fake) -> (loss, metrics),
        where discriminate(source, image) -> feature maps, logits last; metrics are scalars.
    learning_rate: step -> rate, for the log.
    task: how its images are judged and shown.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation
    learning_rate: Callable
    normalise: Callable
    discriminator_loss: Callable
    generator_loss: Callable
    task: Task


def create_state(system, key, batch):
    """Initial TrainState for stored batches of this shape; trace it with jit or eval_shape."""
    source, target = system.normalise(batch)
    g_key, d_key = jax.random.split(key)

    def network(module, optimizer, key, *inputs):
        variables = module.init(key, *inputs, train=False)
        params = variables["params"]
        return Network(params, variables.get("batch_stats", {}), optimizer.init(params))

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=network(system.generator, system.generator_optimizer, g_key, source),
        discriminator=network(
            system.discriminator, system.discriminator_optimizer, d_key, source, target
        ),
    )


def _apply(module, params, batch_stats, *inputs, **kwargs):
    """Training-mode application -> (output, new batch_stats)."""
    output, updates = module.apply(
        {"params": params, "batch_stats": batch_stats},
        *inputs,
        train=True,
        mutable=["batch_stats"],
        **kwargs,
    )
    return output, updates.get("batch_stats", {})


def _descend(optimizer, network, gradients, batch_stats):
    updates, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    return Network(optax.apply_updates(network.params, updates), batch_stats, opt_state)


def train_step(system, state, batch, key):
    """Updates D on one fake, then G on the same fake as the updated D sees it.

    Args:
        system: the System; static under jit.
        state: TrainState.
        batch: {name: integers [n, *spatial, c]}, stored values; all keys that normalise reads.
        key: the run's key; each step folds its own number in, so that nothing random is state.

    Returns:
        (TrainState, metrics): metrics are scalars of this batch, before the updates.
    """
    source, target = system.normalise(batch)
    dropout_key = jax.random.fold_in(key, state.step)

    def generate(params):
        return _apply(
            system.generator,
            params,
            state.generator.batch_stats,
            source,
            rngs={"dropout": dropout_key},
        )

    # The vjp keeps G's activations, so that its gradient below needs no second forward pass.
    fake, pull_back, g_stats = jax.vjp(generate, state.generator.params, has_aux=True)

    def discriminator_loss(params):
        stats = state.discriminator.batch_stats

        def discriminate(source, image):
            nonlocal stats
            features, stats = _apply(system.discriminator, params, stats, source, image)
            return features

        detached = jax.lax.stop_gradient(fake)
        loss, metrics = system.discriminator_loss(discriminate, source, target, detached)
        return loss, (metrics, stats)

    d_gradients, (d_metrics, d_stats) = jax.grad(discriminator_loss, has_aux=True)(
        state.discriminator.params
    )
    discriminator = _descend(
        system.discriminator_optimizer, state.discriminator, d_gradients, d_stats
    )

    def generator_loss(fake):
        def discriminate(source, image):
            params, stats = discriminator.params, discriminator.batch_stats
            return _apply(system.discriminator, params, stats, source, image)[0]

        return system.generator_loss(discriminate, source, target, fake)

    fake_gradients, g_metrics = jax.grad(generator_loss, has_aux=True)(fake)
    (g_gradients,) = pull_back(fake_gradients)
    generator = _descend(system.generator_optimizer, state.generator, g_gradients, g_stats)

    metrics = d_metrics | g_metrics | {"learning_rate": system.learning_rate(state.step)}
    return TrainState(state.step + 1, generator, discriminator), metrics


def generate(system, generator, source, dropout_key=None):
    """G's output in evaluation mode: running statistics, and dropout only with a key.

    Args:
        generator: Network.
        source: [n, *spatial, c] in [-1, 1].
        dropout_key: for one pass of Monte Carlo dropout (Gal and Ghahramani, ICML 2016), where G
            has dropout.

    Returns:
        [n, *spatial, c], as the target.
    """
    variables = {"params": generator.params, "batch_stats": generator.batch_stats}
    if dropout_key is None:
        return system.generator.apply(variables, source, train=False)
    return system.generator.apply(
        variables, source, train=False, dropout=True, rngs={"dropout": dropout_key}
    )
