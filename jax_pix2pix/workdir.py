"""What a working directory holds, and how a run is opened again from it alone."""

import json
import os
from typing import Any

import jax
import ml_collections

from jax_pix2pix.adversarial import Network, System, create_state
from jax_pix2pix.checkpoint import Checkpoints
from jax_pix2pix.errors import ConfigError, WorkdirError, chosen
from jax_pix2pix.systems import SYSTEMS


def _flat(config, prefix=""):
    for key, value in sorted(config.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_path(workdir):
    return os.path.join(workdir, "config.json")


def checkpoint_path(workdir):
    return os.path.join(os.path.abspath(workdir), "checkpoints")


def claim(workdir, config, write):
    """Compares the config with config.json, or writes that where it is missing.

    Args:
        write: on one process of a run; the others only compare, so that all refuse alike.

    Raises:
        WorkdirError: the directory belongs to a run with another config; names each field.
    """
    new = json.loads(config.to_json())
    path = config_path(workdir)
    if not os.path.exists(path):
        if not write:
            return
        os.makedirs(workdir, exist_ok=True)
        temporary = f"{path}.tmp"
        with open(temporary, "w") as file:
            json.dump(new, file, indent=2, sort_keys=True)
        os.replace(temporary, path)
        return
    old, new = dict(_flat(_read_json(path))), dict(_flat(new))
    changes = [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old | new)
        if old.get(key, "absent") != new.get(key, "absent")
    ]
    if changes:
        raise WorkdirError(
            f"{path} is of a run with another config ({'; '.join(changes)}): use another workdir"
        )


def _read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise WorkdirError(f"{path} does not exist: is this the workdir of a run?") from None
    except json.JSONDecodeError as error:
        raise WorkdirError(f"{path} is not valid JSON ({error}): restore it or retrain") from None


POSITIVE = (
    "epochs", "fsdp", "log_every_steps", "text_log_every_epochs", "sample_every_epochs",
    "checkpoint_every_epochs", "keep_last", "data.batch_size", "data.image_size",
    "generator.width", "generator.depth", "generator.classes", "discriminator.width",
)  # fmt: skip


def _check(config):
    for field, value in _flat(config.to_dict()):
        if field in POSITIVE and value < 1:
            raise ConfigError(f"config.{field}={value}: use 1 or more")
        if field.endswith("_range") and not (len(value) == 2 and value[0] < value[1]):
            raise ConfigError(f"config.{field}={value}: use two numbers, the smaller one first")
        if field.endswith(".dropout") and not 0 <= value < 1:
            raise ConfigError(f"config.{field}={value}: use a share from 0 to below 1")
    if config.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError("config.dtype=float64 needs JAX_ENABLE_X64=1 in the environment")


def build_system(config):
    """config -> System.

    Raises:
        ConfigError: names the field that does not fit.
    """
    _check(config)
    return chosen(SYSTEMS, "system", config.system)(config)


def abstract_state(system, config):
    """Shapes and types of a run's TrainState, without computing it."""
    return jax.eval_shape(lambda: create_state(system, jax.random.key(0), example_batch(config)))


def example_batch(config):
    """One stored training example of zeros; parameters do not depend on the batch size."""
    data = config.data
    shape = (1, *((data.depth,) if data.depth else ()), *(data.patch_size or data.image_size,) * 2)
    return {
        "source": jax.numpy.zeros((*shape, data.source_channels), data.source_type),
        "target": jax.numpy.zeros((*shape, 1), data.target_type),
    }


def load_run(workdir, which) -> tuple[Any, System, Network, int]:
    """Opens a trained run on this process's first device.

    Args:
        workdir: a directory that training wrote.
        which: "best", "last" or a step number as text.

    Returns:
        (config, System, Network of the generator, step).

    Raises:
        WorkdirError: something is missing there.
    """
    config = ml_collections.ConfigDict(_read_json(config_path(workdir)))
    system = build_system(config)
    directory = checkpoint_path(workdir)
    if not os.path.isdir(directory):
        raise WorkdirError(f"{directory} does not exist: train first")
    checkpoints = Checkpoints(directory, system.task.best_metric, read_only=True)
    step = checkpoints.resolve(which)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        abstract_state(system, config),
    )
    state = checkpoints.restore(step, abstract)
    checkpoints.close()
    return config, system, state.generator, step
