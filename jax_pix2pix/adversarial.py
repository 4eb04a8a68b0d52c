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

from jax_pix2pix.tasks.task import Task

SPIKE_WINDOW = 128


@flax.struct.dataclass
class Network:
    """What training changes in one network: pytrees."""

    params: Any
    batch_stats: Any  # running statistics; empty without batch norm
    opt_state: Any
    average: Any = None  # of the params over steps, for evaluation; None if the system has none
    losses: Any = (
        None  # the last SPIKE_WINDOW ones, infinite before; None if spikes are not skipped
    )
    frozen: Any = None  # what the module reads and training leaves as it is; None if nothing


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
        see them. In training, G may give several images: source, target and fake are pytrees.
    generator_loss: (discriminate, source, target, fake) -> (loss, metrics), where
        discriminate(source, image) -> feature maps, logits last; metrics are scalars. Inside a
        derivative that the loss takes, it needs update_stats=False.
    discriminator_loss: likewise, with a key for what it draws as the last argument.
    learning_rate: step -> rate, for the log.
    task: how its images are judged and shown.
    augment: None, or (key, source, image) -> (source, image) as D sees them in training; with the
        same key for real and fake, so that features of both can be compared.
    ema_decay: of the average of G's params that evaluation uses (Karras et al., ICLR 2018); 0 is
        none.
    spike_sigmas: an update whose loss is so many standard deviations above the mean of the last
        SPIKE_WINDOW losses is skipped; 0 is off.
    discriminator_updates, generator_updates: of each network in a step, D first, on fakes of other
        noise; then G, with the noise of the last one.
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
    augment: Callable | None = None
    ema_decay: float = 0.0
    spike_sigmas: float = 0.0
    discriminator_updates: int = 1
    generator_updates: int = 1


def create_state(system, key, batch):
    """Initial TrainState for stored batches of this shape; trace it with jit or eval_shape."""
    source, target = system.normalise(batch)
    g_key, d_key = jax.random.split(key)

    def network(module, optimizer, key, *inputs):
        variables = module.init(key, *inputs, train=False)
        params = variables["params"]
        return Network(
            params,
            variables.get("batch_stats", {}),
            optimizer.init(params),
            losses=jnp.full(SPIKE_WINDOW, jnp.inf) if system.spike_sigmas else None,
            frozen=variables.get("frozen"),
        )

    generator = network(system.generator, system.generator_optimizer, g_key, source)
    if system.ema_decay:
        generator = generator.replace(average=generator.params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        discriminator=network(
            system.discriminator, system.discriminator_optimizer, d_key, source, target
        ),
    )


def _apply(module, network, params, batch_stats, *inputs, **kwargs):
    """Training-mode application -> (output, new batch_stats)."""
    output, updates = module.apply(
        {"params": params, "batch_stats": batch_stats, "frozen": network.frozen or {}},
        *inputs,
        train=True,
        mutable=["batch_stats"],
        **kwargs,
    )
    return output, updates.get("batch_stats", {})


def _descend(optimizer, network, gradients, batch_stats, loss, spike_sigmas):
    """-> (Network, 1 if it was left as it is, else 0).

    It is where a gradient or a statistic is not finite, or so large that its square, which Adam
    keeps, would not be; so no state ever holds such a number. Gradients are means over all devices,
    which therefore agree.
    """
    skip = ~jnp.isfinite(optax.tree.norm((gradients, batch_stats)))
    if spike_sigmas:
        # Against infinite losses nothing is a spike.
        skip |= loss > network.losses.mean() + spike_sigmas * network.losses.std()
    updates, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    params = optax.apply_updates(network.params, updates)
    updated = network.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    updated = jax.tree.map(lambda old, new: jnp.where(skip, old, new), network, updated)
    if spike_sigmas:
        # With the spikes, so that a lasting change is one for a while only.
        losses = jnp.append(network.losses[1:], loss.astype(network.losses.dtype))
        losses = jnp.where(jnp.isfinite(loss), losses, network.losses)
        updated = updated.replace(losses=losses)
    return updated, skip.astype(jnp.int32)


def _averaged(network, decay, step):
    """Takes the params into the average, which in the first steps forgets faster."""
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    average = jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype),
        network.average,
        network.params,
    )
    return network.replace(average=average)


def train_step(system, state, batch, key):
    """Updates D on a fake, then G on the same fake as the updated D sees it.

    With several updates of D, each sees a fake of new noise; with several of G, the new G makes
    another fake of the last noise for each.

    Args:
        system: the System; static under jit.
        state: TrainState.
        batch: {name: integers [n, *spatial, c]}, stored values; all keys that normalise reads.
        key: the run's key; each step folds its own number in, so that nothing random is state.

    Returns:
        (TrainState, metrics): metrics are scalars of this batch, before the last updates;
        "skipped_D" and "skipped_G" count the updates that were left out.
    """
    source, target = system.normalise(batch)
    generator, discriminator = state.generator, state.discriminator
    step_key = noise_key = jax.random.fold_in(key, state.step)

    def seen_by_d(source, image):
        if not system.augment:
            return source, image
        return system.augment(jax.random.fold_in(step_key, 1), source, image)

    def generate(params):
        rngs = {"dropout": noise_key, "noise": noise_key}
        stats = generator.batch_stats
        return _apply(system.generator, generator, params, stats, source, rngs=rngs)

    def discriminator_loss(params):
        stats = discriminator.batch_stats

        def discriminate(source, image, update_stats=True):
            nonlocal stats
            pair = seen_by_d(source, image)
            features, new = _apply(system.discriminator, discriminator, params, stats, *pair)
            stats = new if update_stats else stats
            return features

        detached = jax.lax.stop_gradient(fake)
        loss_key = jax.random.fold_in(noise_key, 2)
        loss, metrics = system.discriminator_loss(discriminate, source, target, detached, loss_key)
        return loss, (metrics, stats, loss)

    def generator_loss(fake):
        def discriminate(source, image):
            d, pair = discriminator, seen_by_d(source, image)
            return _apply(system.discriminator, d, d.params, d.batch_stats, *pair)[0]

        loss, metrics = system.generator_loss(discriminate, source, target, fake)
        return loss, (metrics, loss)

    d_metrics = g_metrics = {}
    skipped = {"skipped_D": jnp.int32(0), "skipped_G": jnp.int32(0)}
    for update in range(system.discriminator_updates):
        if update:
            noise_key = jax.random.fold_in(step_key, 2 + update)
        # The vjp keeps G's activations, so that its gradient below needs no second forward pass.
        fake, pull_back, g_stats = jax.vjp(generate, generator.params, has_aux=True)
        gradients, (d_metrics, d_stats, loss) = jax.grad(discriminator_loss, has_aux=True)(
            discriminator.params
        )
        discriminator, skip = _descend(
            system.discriminator_optimizer,
            discriminator,
            gradients,
            d_stats,
            loss,
            system.spike_sigmas,
        )
        skipped["skipped_D"] += skip

    for update in range(system.generator_updates):
        if update:
            fake, pull_back, g_stats = jax.vjp(generate, generator.params, has_aux=True)
        fake_gradients, (g_metrics, loss) = jax.grad(generator_loss, has_aux=True)(fake)
        (gradients,) = pull_back(fake_gradients)
        generator, skip = _descend(
            system.generator_optimizer, generator, gradients, g_stats, loss, system.spike_sigmas
        )
        skipped["skipped_G"] += skip
    if system.ema_decay:
        generator = _averaged(generator, system.ema_decay, state.step)

    metrics = d_metrics | g_metrics | skipped | {"learning_rate": system.learning_rate(state.step)}
    return TrainState(state.step + 1, generator, discriminator), metrics


def generate(system, generator, source, dropout_key=None):
    """G's output in evaluation mode: running statistics, averaged params where there are some.

    Dropout is on only with a key.

    Args:
        generator: Network.
        source: [n, *spatial, c] in [-1, 1].
        dropout_key: for one pass of Monte Carlo dropout (Gal and Ghahramani, ICML 2016), where G
            has dropout.

    Returns:
        [n, *spatial, c], as the target.
    """
    params = generator.params if generator.average is None else generator.average
    variables = {
        "params": params,
        "batch_stats": generator.batch_stats,
        "frozen": generator.frozen or {},
    }
    if dropout_key is None:
        return system.generator.apply(variables, source, train=False)
    return system.generator.apply(
        variables, source, train=False, dropout=True, rngs={"dropout": dropout_key}
    )
