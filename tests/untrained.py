"""Workdirs of runs that were never trained: a config, and a checkpoint of drawn weights."""

import jax
import numpy as np

from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.workdir import abstract_state, build_system
from jax_pix2pix.runs.workdir_files import checkpoint_path, claim

STEP = 7
# For commands: no warning that another number of devices wrote these checkpoints.
QUIET = {"PYTHONWARNINGS": "ignore::UserWarning"}


def save(workdir, config):
    """Writes a workdir whose generator's output is far from constant. -> workdir."""
    config.steps_per_epoch = 10
    system = build_system(config)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim > 1:  # kernels [*spatial, in, out] with which layers keep the variance
            inputs = tuple(range(leaf.ndim - 1))
            kernel = rng.normal(size=leaf.shape)
            kernel -= kernel.mean(inputs, keepdims=True)  # because features are positive
            return (2 * kernel / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)
        ones = path[-1].key in ("scale", "var", "amplitudes")  # of norms and of a pyramid's noise
        return np.full(leaf.shape, float(ones), leaf.dtype)

    state = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_state(system, config)
    )
    fields = ("params", "batch_stats", "frozen")
    drawn = {name: getattr(state.generator, name) for name in fields}
    drawn = jax.tree_util.tree_map_with_path(draw, drawn)
    generator = state.generator.replace(**drawn)
    claim(workdir, config)
    checkpoints = Checkpoints(checkpoint_path(workdir), system.task.best_metric)
    checkpoints.save(STEP, state.replace(generator=generator), {system.task.best_metric: 0.5})
    checkpoints.wait()
    checkpoints.close()
    return workdir
