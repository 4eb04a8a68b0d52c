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
from jax_pix2pix.models.pyramid import scale_variables
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.runs.initial_weights import TAKEN, weights, with_weights
from jax_pix2pix.runs.workdir import load_state
from jax_pix2pix.runs.workdir_files import scale_directory
from jax_pix2pix.systems.ct_pyramid import scale_sizes


def at_scale(config, scale):
    """The config of one scale; scale s, counted from 0, trains (s + 1) * config.epochs epochs."""
    config = config.copy_and_resolve_references()
    config.pyramid.scale = scale
    config.epochs = config.epochs * (scale + 1)
    return config


def scales(config):
    """The configs of all scales of a config whose fields were checked, coarsest first."""
    return [at_scale(config, scale) for scale in range(len(scale_sizes(config)))]


def fit_scales(scales, workdir, fit_scale, examples):
    """Trains every unfinished scale to its end, from where it stopped.

    Args:
        scales: [(config, System)] of each, coarsest first.
        workdir: of the whole run.
        fit_scale: (config and System of a scale, its workdir, warm_start, title) -> whether it
            finished; warm_start is that of `fit`, title that of `Logbook`.
        examples: () -> iterator of all training examples as stored batches with "index".

    Returns:
        True if all scales are done; False if the machine asked the run to stop.
    """
    for number, (config, system) in enumerate(scales):
        warm_start = None
        if number:
            coarser = scale_directory(workdir, number - 1)
            warm_start = functools.partial(grow, config, system, coarser, examples)
        title = f"scale {number + 1} of {len(scales)}"
        if not fit_scale(config, system, scale_directory(workdir, number), warm_start, title):
            return False
    return True


def grow(config, system, coarser, examples, state, shardings):
    """The state that a scale begins with: weights and frozen variables come from the coarser scale.

    The amplitude of its noise is config.pyramid.noise_factor times the root-mean-square error of
    the coarser scale's upsampled reconstructions of the training volumes.

    Process 0 reads and measures for all, since the others may not see the files that it saved.

    Args:
        config, system: the scale's.
        coarser: workdir of the next coarser scale.
        examples: as for `fit_scales`.
        state: TrainState of fresh weights.
        shardings: of ``state``, a pytree of the same structure.
    """

    def warm():
        _, coarse_system, coarse, _ = load_state(coarser, "last")
        generator = coarse.generator
        error = reconstruction_error(coarse_system, generator, system, examples())
        frozen = generator.frozen
        number = config.pyramid.scale - 1
        variables = frozen["scales"] | {f"scale_{number}": scale_variables(generator)[-1]}
        amplitude = jnp.float32(config.pyramid.noise_factor * error)
        frozen = {"scales": variables, "amplitudes": jnp.append(frozen["amplitudes"], amplitude)}
        return weights(coarse.replace(generator=generator.replace(frozen=frozen)), names)

    names = (*TAKEN, "frozen")
    return with_weights(state, warm, shardings, names)


def reconstruction_error(coarse_system, generator, system, examples):
    """Root-mean-square error of upsampled reconstructions, in units of [-1, 1], over all voxels."""

    @jax.jit
    def squares(batch):
        z_rec, _ = coarse_system.normalise(batch)
        target = system.target(batch["source"])
        made = resize_linear(generate(coarse_system, generator, z_rec), target.shape[1:-1])
        per_example = jnp.square(made - target).mean(tuple(range(1, target.ndim)))
        counted = batch["index"][:, 0] >= 0
        return jnp.where(counted, per_example, 0).sum(), counted.sum()

    sums = [jax.device_get(squares(batch)) for batch in examples]
    total, count = np.sum(np.asarray(sums, np.float64), axis=0)
    check_any_counted(count)
    return float(np.sqrt(total / count))
