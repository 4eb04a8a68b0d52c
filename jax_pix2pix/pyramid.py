"""The outer loop over the scales of a pyramid, coarse to fine: one `fit` each.

A run's directory holds scale_0, scale_1, ...: each a workdir of its own, whose checkpoints hold the
coarser scales too, as Network.frozen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.evaluation.slices import check_any_counted
from jax_pix2pix.runs.first_process import arrays_of_first_process, on_first_process
from jax_pix2pix.models.pyramid import scale_variables
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.sharding import placed
from jax_pix2pix.systems.ct_pyramid import scale_sizes
from jax_pix2pix.runs.workdir import build_system, load_state
from jax_pix2pix.runs.workdir_files import last_scale, scale_directory  # noqa: F401


def at_scale(config, scale):
    """The config of one scale, which trains config.epochs times its number, counted from 1."""
    config = config.copy_and_resolve_references()
    config.pyramid.scale = scale
    config.epochs = config.epochs * (scale + 1)
    return config


def scales(config):
    """The configs of all scales, coarsest first."""
    return [at_scale(config, scale) for scale in range(len(scale_sizes(config)))]


def fit_scales(config, workdir, fit_scale, examples):
    """Trains every scale from where it is to its end; those that are done are not done again.

    Args:
        config: of the whole run, with steps_per_epoch filled in.
        workdir: of the whole run.
        fit_scale: (config of a scale, its workdir, warm_start, title) -> whether it finished; the
            last two as `fit` has them.
        examples: () -> iterator of all training examples as stored batches with "index".

    Returns:
        True when all scales are done; False when the machine asked for the run to stop.
    """
    configs = scales(config)
    for scale, scale_config in enumerate(configs):
        warm_start = None
        if scale:
            coarser = scale_directory(workdir, scale - 1)
            warm_start = functools.partial(grow, scale_config, coarser, examples)
        title = f"scale {scale + 1} of {len(configs)}"
        if not fit_scale(scale_config, scale_directory(workdir, scale), warm_start, title):
            return False
    return True


def grow(config, coarser, examples, state, shardings):
    """The state that a scale begins with: its weights, and all that is frozen, of the coarser one.

    The amplitude of its noise is config.pyramid.noise_factor times the root-mean-square error with
    which the coarser scale's reconstructions, upsampled, miss the training volumes.

    Process 0 reads and measures for all, as the others may not see what it saved.

    Args:
        config: of the scale.
        coarser: workdir of the scale before.
        examples: as `fit_scales`.
        state: TrainState of fresh weights.
        shardings: of ``state``, a pytree alike.
    """

    def weights(network):
        names = ("params", "batch_stats", "average", "frozen")
        return {name: getattr(network, name) for name in names}

    def warm():
        _, coarse_system, coarse, _ = load_state(coarser, "last")
        generator, system = coarse.generator, build_system(config)
        error = reconstruction_error(coarse_system, generator, system, examples())
        frozen = generator.frozen
        number = config.pyramid.scale - 1
        variables = frozen["scales"] | {f"scale_{number}": scale_variables(generator)[-1]}
        amplitude = jnp.float32(config.pyramid.noise_factor * error)
        frozen = {"scales": variables, "amplitudes": jnp.append(frozen["amplitudes"], amplitude)}
        return weights(generator.replace(frozen=frozen)), weights(coarse.discriminator)

    like = weights(state.generator), weights(state.discriminator)
    generator, discriminator = arrays_of_first_process(on_first_process(warm), like)
    state = state.replace(
        generator=state.generator.replace(**generator),
        discriminator=state.discriminator.replace(**discriminator),
    )
    return placed(state, shardings)


def reconstruction_error(coarse_system, generator, system, examples):
    """Root-mean-square error of upsampled reconstructions, in units of [-1, 1], over all voxels."""

    @jax.jit
    def squares(batch):
        z_rec, _ = coarse_system.normalise(batch)
        _, target = system.normalise(batch)
        made = resize_linear(generate(coarse_system, generator, z_rec), target.shape[1:-1])
        per_example = jnp.square(made - target).mean(tuple(range(1, target.ndim)))
        counted = batch["index"][:, 0] >= 0
        return jnp.where(counted, per_example, 0).sum(), counted.sum()

    sums = [jax.device_get(squares(batch)) for batch in examples]
    total, count = np.sum(np.asarray(sums, np.float64), axis=0)
    check_any_counted(count)
    return float(np.sqrt(total / count))
