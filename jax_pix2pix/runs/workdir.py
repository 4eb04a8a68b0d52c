"""What a working directory holds, and how a run is opened again from it alone."""

import functools
import os
from typing import Any

import jax

from jax_pix2pix import config_fields
from jax_pix2pix.adversarial import Network, System, TrainState, create_state, generate, train_step
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.runs.stores.store_checkpoints import open_checkpoints
from jax_pix2pix.runs.workdir_files import (
    check_trained,
    checkpoint_path,
    config_path,
    named_if_incomplete,
    read_config,
)
from jax_pix2pix.systems import find_system
from jax_pix2pix.tasks.kinds import has_scales, kind_of

MAX_PARAMETERS = 10**10  # of a run's networks; the flagship's have 3 * 10**7


def _check_combinations(config):
    loss = config.get("loss", {})
    if loss.get("adversarial") == "wgan" and not loss.gradient_penalty_weight:
        raise ConfigError(
            "config.loss.gradient_penalty_weight=0, but nothing else bounds the critic of "
            'config.loss.adversarial="wgan": use a positive weight'
        )
    if config.get("ema_decay") and config.get("generator", {}).get("norm") == "batch":
        raise ConfigError(
            f"config.ema_decay={config.ema_decay} averages weights, and the running statistics of "
            'config.generator.norm="batch" do not fit the average: use another norm, or 0'
        )
    if config.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError("config.dtype=float64 needs JAX_ENABLE_X64=1 in the environment")


def build_system(config):
    """config -> System.

    Raises:
        ConfigError: names the field that does not fit.
    """
    config_fields.check(config.to_dict())
    return system_of(config)


def system_of(config):
    """As `build_system`, of a config whose fields were checked one by one."""
    _check_combinations(config)
    kind_of(config)
    return find_system(config.system)(config)


def abstract_state(system, config):
    """Shapes and types of a run's TrainState, without computing it.

    Raises:
        ConfigError: the networks do not fit the images, or have more than MAX_PARAMETERS.
    """
    state = jax.eval_shape(lambda: create_state(system, jax.random.key(0), example_batch(config)))
    for name, network in (("generator", state.generator), ("discriminator", state.discriminator)):
        parameters = sum(x.size for x in jax.tree.leaves(network.params))
        if parameters > MAX_PARAMETERS:
            raise ConfigError(
                f"config.{name} has {parameters:,} parameters, above {MAX_PARAMETERS:,}: use a "
                "smaller width or depth"
            )
    return state


def check_sizes(system, config):
    """Traces a training step and the generator on an evaluation image, which refuse misfits.

    Without this a workdir would be claimed, or a run trained up to its first validation, in vain.

    Raises:
        ConfigError: names the field that does not fit the images.
    """
    state = abstract_state(system, config)

    def step(state, batch):
        return train_step(system, state, batch, jax.random.key(0))

    parts = jax.tree.map(lambda x: x.repeat(config.accumulate, axis=0), example_batch(config))
    jax.eval_shape(step, state, parts)
    if config.data.patch_size:
        source = system.source(example_batch(config, config.data.image_size)["source"])
        jax.eval_shape(functools.partial(generate, system), state.generator, source)


def example_batch(config, side=None):
    """One stored example of zeros, of training or of this side; parameters fit any batch."""
    data = config.data
    side = side or data.patch_size or data.image_size
    shape = (1, *((data.depth,) if data.depth else ()), side, side)
    channels = data.source_channels * (2 * data.context + 1)
    example = {
        "source": jax.numpy.zeros((*shape, channels), data.source_type),
        "target": jax.numpy.zeros((*shape, 1), data.target_type),
    }
    if has_scales(config):  # the fixed noise depends on the example
        example["index"] = jax.numpy.zeros((1, data.depth), int)
    return example


def _without_loss_files(config):
    """A copy for a System that does not train: its losses' files may have moved."""
    config = config.copy_and_resolve_references()
    for weight in ("perceptual_weight", "segmentation_weight"):
        if weight in config.get("loss", {}):
            config.loss[weight] = 0.0
    return config


def _level_bytes(config):
    """Bytes of one example at the generator's first level, which no use of a run goes without."""
    data = config.data
    side = data.get("patch_size") or data.image_size
    width = config.get("generator", {}).get("width", 1)
    return 4 * side**2 * max(data.depth, 1) * width


def load_run(workdir, which) -> tuple[Any, System, Network, int]:
    """Opens a trained run on this process's first device, for its generator.

    Returns:
        (config, System, Network of the generator, step); all else is as for `load_state`.
    """
    config, system, state, step = load_state(workdir, which)
    return config, system, state.generator, step


def described(workdir):
    """A trained run without its weights. -> (config, System, TrainState of shapes and types).

    Raises:
        WorkdirError: something is missing there, or damaged.
    """
    config = read_config(workdir)
    try:
        with named_if_incomplete(workdir):
            system = build_system(_without_loss_files(config))
            state = abstract_state(system, config)
    except ConfigError as error:
        raise WorkdirError(f"{config_path(workdir)}: {error}") from error
    check_trained(workdir)
    return config, system, state


def checkpoints_of(workdir, system):
    """The checkpoints of a trained run, to read."""
    return open_checkpoints(checkpoint_path(workdir), system.task.best_metric, read_only=True)


def load_state(workdir, which) -> tuple[Any, System, TrainState, int]:
    """Opens a trained run on this process's first device.

    Args:
        workdir: a directory that training wrote.
        which: "best", "last" or a step number as text.

    Returns:
        (config, System, TrainState, step).

    Raises:
        WorkdirError: something is missing there, or damaged.
    """
    config, system, state = described(workdir)
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) + _level_bytes(config)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise WorkdirError(
            f"{workdir} has a state and a first level of {needed / 1e9:.1f} GB, and this machine "
            f"{memory / 1e9:.1f} GB of memory: use a larger machine"
        )
    checkpoints = checkpoints_of(workdir, system)
    step = checkpoints.resolve(which)
    checkpoints.check_sound(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        state,
    )
    state = checkpoints.restore(step, abstract)
    checkpoints.close()
    return config, system, state, step
