"""One adversarial training step for every system: D, then G, with one forward pass of G.

A ``System`` holds all that differs between systems. Its losses see images and a function
``discriminate(source, image) -> feature maps``, never parameters, so that a gradient penalty or a
feature-matching loss needs nothing else from the step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jax_pix2pix import accumulation
from jax_pix2pix.augmentation import Augmentation
from jax_pix2pix.tasks.task import Task

SPIKE_WINDOW = 128


@flax.struct.dataclass
class Network:
    """The state of one network, as pytrees."""

    params: Any
    batch_stats: Any  # running statistics; empty without batch norm
    opt_state: Any
    average: Any = None  # moving average of the params, for evaluation; None if there is none
    losses: Any = None  # the last SPIKE_WINDOW, at first infinite; None if spikes are not skipped
    frozen: Any = None  # what the module reads but training does not change; None if nothing


@flax.struct.dataclass
class TrainState:
    """The state in a checkpoint. ``step`` counts finished steps; it is the only loop state."""

    step: jax.Array
    generator: Network
    discriminator: Network


@dataclasses.dataclass(frozen=True)
class System:
    """A pair of networks, how they are optimised and what they are trained for.

    source: stored integers [n, *spatial, c] -> what G sees, in [-1, 1].
    target: stored integers -> what G should output. In training, G may output several images:
        target and fake are pytrees.
    output: G's output -> physical values: HU, 8-bit grey levels, or probabilities of classes. Not
        rounded.
    generator_loss: (discriminate, source, target, fake) -> (loss, metrics), where
        discriminate(source, image) -> feature maps, logits last; metrics are scalars.
    discriminator_loss: the same for D, with a random key as the last argument. A derivative inside
        this loss calls discriminate with update_stats=False.
    learning_rate: step -> rate, for the log.
    task: how its images are judged and shown.
    degrade: None, or (key, source) -> source, which adds noise drawn anew in each step, such as
        that of a low dose. The key is the step's in training and the example's in evaluation, so
        that scores are reproducible. Prediction uses the source as it is.
    fixed_noise: None, or (numbers of examples [n]) -> G's input in place of a source, for systems
        that make images from noise. Their target is `target` of the stored source.
    augmentation: None, or an Augmentation, whose changes of both images of a pair are drawn anew in
        each step of training.
    augment: None, or (key, source, image) -> (source, image) as D sees them in training. Real and
        fake share a key, so that their features can be compared.
    ema_decay: decay of the average of G's params that evaluation uses (Karras et al., ICLR 2018);
        0 disables it.
    spike_sigmas: an update whose loss is more than this many standard deviations above the mean of
        the last SPIKE_WINDOW losses is skipped; 0 disables this.
    discriminator_updates, generator_updates: updates of each network in a step: first D, each with
        new noise, then G, with the noise of D's last update.
    accumulate: parts of a batch that go through the networks one after the other; gradients,
        statistics and metrics are means over them. 1 is the whole batch at once.
    """

    generator: nn.Module
    discriminator: nn.Module
    generator_optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation
    learning_rate: Callable
    source: Callable
    target: Callable
    output: Callable
    discriminator_loss: Callable
    generator_loss: Callable
    task: Task
    degrade: Callable | None = None
    fixed_noise: Callable | None = None
    augmentation: Augmentation | None = None
    augment: Callable | None = None
    ema_decay: float = 0.0
    spike_sigmas: float = 0.0
    discriminator_updates: int = 1
    generator_updates: int = 1
    accumulate: int = 1

    def normalise(self, batch, key=None):
        """The (source, target) of a stored batch: what G sees, and what it should output.

        Args:
            batch: {"source", "target": integers [n, *spatial, c], "index": [n] or, in 3D, [n, d]};
                the index is read for fixed noise and, with ``degrade``, without a key.
            key: random key of a training step; None in evaluation.
        """
        if self.fixed_noise:
            return self.fixed_noise(batch["index"][:, 0]), self.target(batch["source"])
        augmentation, degrade = self.augmentation, self.degrade
        if augmentation and key is not None:
            batch = augmentation.move(jax.random.fold_in(key, 0), batch)
            source = self.source(batch["source"])
            source = augmentation.recolour(jax.random.fold_in(key, 1), source)
        else:
            source = self.source(batch["source"])
        if degrade and key is not None:
            source = degrade(key, source)
        elif degrade:
            numbers = batch["index"].reshape(len(source), -1)[:, 0]
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)
            source = jax.vmap(lambda key, one: degrade(key, one[None])[0])(keys, source)
        return source, self.target(batch["target"])


def create_state(system, key, batch):
    """Initial TrainState for stored batches of this shape; trace it with jit or eval_shape."""
    g_key, d_key = jax.random.split(key)
    source, target = system.normalise(batch, key)

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
    """Applies or skips an update. -> (Network, 1 if it was skipped, else 0).

    It is skipped for a spike, or if a gradient or a statistic is not finite, or so large that its
    square, which Adam keeps, would not be. So no state ever holds such a number. Gradients are
    means over all devices, so all devices agree.
    """
    skip = ~jnp.isfinite(optax.tree.norm((gradients, batch_stats)))
    if spike_sigmas:
        # Nothing is a spike before the window is full, since its mean is infinite.
        skip |= loss > network.losses.mean() + spike_sigmas * network.losses.std()
    updates, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    params = optax.apply_updates(network.params, updates)
    updated = network.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    updated = jax.tree.map(lambda old, new: jnp.where(skip, old, new), network, updated)
    if spike_sigmas:
        # The window includes spikes, so that a lasting change soon stops being one.
        losses = jnp.append(network.losses[1:], loss.astype(network.losses.dtype))
        losses = jnp.where(jnp.isfinite(loss), losses, network.losses)
        updated = updated.replace(losses=losses)
    return updated, skip.astype(jnp.int32)


def _averaged(network, decay, step):
    """Updates the average with the params; the first steps use a smaller decay."""
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    average = jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype),
        network.average,
        network.params,
    )
    return network.replace(average=average)


def train_step(system, state, batch, key):
    """Updates D on a fake, then G on the same fake, judged by the updated D.

    Each of several updates of D sees a fake from new noise. Before each further update of G, the
    new G makes another fake from the last noise.

    With several parts to a batch (gradient accumulation) only one is in memory at a time: D's
    gradient is the mean over them, and then G's, for which G runs forward a second time.

    Args:
        system: the System; static under jit.
        state: TrainState.
        batch: {name: integers [n, *spatial, c]}, stored values, as `System.normalise` reads them.
        key: the run's key; each step folds in its own number, so the state holds no random key.

    Returns:
        (TrainState, metrics): metrics are scalars of this batch, before the last updates;
        "skipped_D" and "skipped_G" count the skipped updates.
    """
    generator, discriminator = state.generator, state.discriminator
    over_parts = accumulation.over_parts(system, batch, jax.random.fold_in(key, state.step))
    d_metrics = g_metrics = {}
    skipped = {"skipped_D": jnp.int32(0), "skipped_G": jnp.int32(0)}

    for noise in range(system.discriminator_updates):
        (*update, d_metrics), made = over_parts(
            functools.partial(_d_gradients, system, generator, discriminator, noise)
        )
        discriminator, skip = _descend(
            system.discriminator_optimizer, discriminator, *update, system.spike_sigmas
        )
        skipped["skipped_D"] += skip

    for _ in range(system.generator_updates):
        (*update, g_metrics), _ = over_parts(
            functools.partial(_g_gradients, system, generator, discriminator, noise, made)
        )
        generator, skip = _descend(
            system.generator_optimizer, generator, *update, system.spike_sigmas
        )
        skipped["skipped_G"] += skip
        made = None
    if system.ema_decay:
        generator = _averaged(generator, system.ema_decay, state.step)

    metrics = d_metrics | g_metrics | skipped | {"learning_rate": system.learning_rate(state.step)}
    return TrainState(state.step + 1, generator, discriminator), metrics


def _fake(system, generator, noise, part):
    """G's output for a part, with what its gradient needs. -> (fake, pull back, batch_stats)."""
    key = jax.random.fold_in(part.key, 2 + noise) if noise else part.key

    def generate(params):
        rngs = {"dropout": key, "noise": key}
        stats = generator.batch_stats
        return _apply(system.generator, generator, params, stats, part.source, rngs=rngs)

    # The vjp keeps G's activations, so that its gradient needs no second forward pass.
    return jax.vjp(generate, generator.params, has_aux=True)


def _seen_by_d(system, part, source, image):
    if not system.augment:
        return source, image
    return system.augment(jax.random.fold_in(part.key, 1), source, image)


def _d_gradients(system, generator, discriminator, noise, part):
    """-> ((gradients, batch_stats, loss, metrics) of D, what `_fake` made)."""
    made = _fake(system, generator, noise, part)
    fake = jax.lax.stop_gradient(made[0])
    noise_key = jax.random.fold_in(part.key, 2 + noise) if noise else part.key

    def loss_and_stats(params):
        stats = discriminator.batch_stats

        def discriminate(source, image, update_stats=True):
            nonlocal stats
            pair = _seen_by_d(system, part, source, image)
            features, new = _apply(system.discriminator, discriminator, params, stats, *pair)
            stats = new if update_stats else stats
            return features

        loss, metrics = system.discriminator_loss(
            discriminate, part.source, part.target, fake, jax.random.fold_in(noise_key, 2)
        )
        return loss, (stats, loss, metrics)

    gradients, rest = jax.grad(loss_and_stats, has_aux=True)(discriminator.params)
    return (gradients, *rest), made


def _g_gradients(system, generator, discriminator, noise, made, part):
    """-> ((gradients, batch_stats, loss, metrics) of G, None).

    made: from `_fake` of the same G and part, which saves a forward pass; or None.
    """
    fake, pull_back, stats = made or _fake(system, generator, noise, part)

    def discriminate(source, image):
        d, pair = discriminator, _seen_by_d(system, part, source, image)
        return _apply(system.discriminator, d, d.params, d.batch_stats, *pair)[0]

    def loss_and_metrics(fake):
        loss, metrics = system.generator_loss(discriminate, part.source, part.target, fake)
        return loss, (loss, metrics)

    fake_gradients, rest = jax.grad(loss_and_metrics, has_aux=True)(fake)
    (gradients,) = pull_back(fake_gradients)
    return (gradients, stats, *rest), None


def generate(system, generator, source, dropout_key=None):
    """G's output in evaluation mode: running statistics, averaged params if there are any.

    Dropout is on only with a key.

    Args:
        generator: Network.
        source: [n, *spatial, c] in [-1, 1].
        dropout_key: for one pass of Monte Carlo dropout (Gal and Ghahramani, ICML 2016), if G has
            dropout.

    Returns:
        [n, *spatial, c], like the target.
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
