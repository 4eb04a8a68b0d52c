"""What a working directory holds, and how a run is opened again from it alone."""

import functools
import json
import os
import time
from typing import Any

import jax
import ml_collections

from jax_pix2pix.adversarial import Network, System, TrainState, create_state, generate, train_step
from jax_pix2pix.checkpoint import Checkpoints
from jax_pix2pix.errors import ConfigError, WorkdirError, chosen
from jax_pix2pix.systems import SYSTEMS


def flat(config, prefix=""):
    """(dotted name, value) of each field of nested dicts."""
    for key, value in sorted(config.items()):
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_path(workdir):
    return os.path.join(workdir, "config.json")


def checkpoint_path(workdir):
    return os.path.join(os.path.abspath(workdir), "checkpoints")


# Fields that may change between two starts of a run, as the weights do not depend on them.
CHANGEABLE = (
    # What is written, and how often. Validation and pictures draw no random numbers.
    "log_every_steps", "text_log_every_epochs", "sample_every_epochs", "checkpoint_every_epochs",
    "checkpoint_every_steps", "keep_last",
    # When a run gives up.
    "max_skipped", "watchdog_seconds", "heartbeat_seconds",
    # Where the data lies and waits; its batches are the same. With on_error=skip they are those of
    # data without the records that would have ended the run.
    "data.cache", "data.data_dir", "data.on_error",
    # Where parameters lie: sums are in another order, as on another number of devices.
    "fsdp",
    # Not among them: epochs, which the learning rate's decay depends on, spike_sigmas, which skips
    # updates, and files of a loss's weights, of which another path may well be another network.
)  # fmt: skip


def check_changeable(config, fields):
    """Refuses fields, "data.cache" for instance, that a run must keep.

    Raises:
        ConfigError: a field does not exist, or changes what is trained.
    """
    existing = dict(flat(config.to_dict()))
    for field in fields:
        if field not in existing:
            raise ConfigError(f'--allow_config_change: the config has no field "{field}"')
        if field not in CHANGEABLE:
            raise ConfigError(
                f"--allow_config_change={field}: another value changes what is trained; use "
                "another workdir"
            )


def claim(workdir, config, allowed=()):
    """Compares the config with config.json, or writes that where it is missing.

    One process of a run calls this. Differences that are allowed are written to config.json, and
    what they replace is kept: a line each of config_changes.jsonl.

    Args:
        allowed: fields that may differ, of those that check_changeable lets pass.

    Raises:
        WorkdirError: the directory belongs to a run with another config, each field of which is
            named; or to one whose config is not there.
    """
    config = json.loads(config.to_json())
    new = dict(flat(config))
    path = config_path(workdir)
    if not os.path.exists(path):
        if _newest_step(workdir) is not None:
            raise WorkdirError(
                f"{path} does not exist, but checkpoints beside it do: restore it, or use another "
                "workdir"
            )
        os.makedirs(workdir, exist_ok=True)
        _write_json(path, config)
        return
    old = dict(flat(_read_json(path)))
    changed = [
        field for field in sorted(old | new) if old.get(field, "absent") != new.get(field, "absent")
    ]
    refused = [field for field in changed if field not in allowed]
    if refused:
        changes = "; ".join(
            f"{field}: {old.get(field, 'absent')} there, {new.get(field, 'absent')} now"
            for field in refused
        )
        way = "use another workdir"
        if set(refused) <= set(CHANGEABLE):
            way = f"allow it with --allow_config_change={','.join(changed)}, or {way}"
        raise WorkdirError(f"{path} is of a run with another config ({changes}): {way}")
    if changed:
        _record_changes(workdir, {field: (old.get(field), new[field]) for field in changed})
        _write_json(path, config)


def _record_changes(workdir, changes):
    """changes: {field: (old value, new value)}; the old one is None where the field is new."""
    with open(os.path.join(workdir, "config_changes.jsonl"), "a", encoding="utf-8") as file:
        for field, (old, new) in changes.items():
            line = {"time": time.time(), "step": _newest_step(workdir), "field": field}
            file.write(json.dumps(line | {"old": old, "new": new}) + "\n")


def _newest_step(workdir):
    """Of the checkpoints; None of a pyramid, whose scales have their own."""
    path = checkpoint_path(workdir)
    names = os.listdir(path) if os.path.isdir(path) else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _write_json(path, content):
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_config(workdir):
    """The config that a workdir belongs to.

    Raises:
        WorkdirError: it is not there, or damaged.
    """
    return ml_collections.ConfigDict(_read_json(config_path(workdir)))


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise WorkdirError(f"{path} does not exist: is this the workdir of a run?") from None
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path} is not valid JSON ({error}): restore it or retrain") from None
    if not isinstance(content, dict):
        raise WorkdirError(f"{path} does not hold a config: restore it or retrain")
    return content


POSITIVE = (
    "epochs", "fsdp", "log_every_steps", "text_log_every_epochs", "sample_every_epochs",
    "checkpoint_every_epochs", "keep_last", "max_skipped", "heartbeat_seconds",
    "data.batch_size", "data.image_size", "data.repeat",
    "generator.width", "generator.depth", "generator.classes", "discriminator.width",
    "pyramid.min_size", "pyramid.max_size", "pyramid.depth_divisor",
    "pyramid.discriminator_updates", "pyramid.generator_updates",
)  # fmt: skip
NOT_NEGATIVE = (
    "checkpoint_every_steps", "spike_sigmas", "watchdog_seconds", "data.depth", "data.context",
    "data.patch_size", "constant_epochs",
    "optimizer.learning_rate", "generator.dropout_levels",
    "discriminator.strided_levels", "discriminator.dense_levels", "pyramid.scale",
    "pyramid.noise_factor",
)  # fmt: skip


def _check(config):
    for field, value in flat(config.to_dict()):
        if field in POSITIVE and value < 1:
            raise ConfigError(f"config.{field}={value}: use 1 or more")
        if (field in NOT_NEGATIVE or field.endswith("_weight")) and not value >= 0:
            raise ConfigError(f"config.{field}={value}: use 0 or more")
        if field.endswith(("_range", "window_hu")) and not (
            len(value) == 2 and value[0] < value[1]
        ):
            raise ConfigError(f"config.{field}={value}: use two numbers, the smaller one first")
        if (field == "ema_decay" or field.endswith(".dropout")) and not 0 <= value < 1:
            raise ConfigError(f"config.{field}={value}: use a share from 0 to below 1")
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
    _check(config)
    return chosen(SYSTEMS, "system", config.system)(config)


def abstract_state(system, config):
    """Shapes and types of a run's TrainState, without computing it."""
    return jax.eval_shape(lambda: create_state(system, jax.random.key(0), example_batch(config)))


def check_sizes(system, config):
    """Traces a training step, and the generator on an image of evaluation, for what they refuse.

    Without this a run would be claimed, or trained up to its first validation, in vain.

    Raises:
        ConfigError: names the field that does not fit the images.
    """
    state = abstract_state(system, config)

    def step(state, batch):
        return train_step(system, state, batch, jax.random.key(0))

    jax.eval_shape(step, state, example_batch(config))
    if config.data.patch_size:
        source, _ = system.normalise(example_batch(config, config.data.image_size))
        jax.eval_shape(functools.partial(generate, system), state.generator, source)


def example_batch(config, side=None):
    """One stored example of zeros, of training or of this side: any batch has its parameters."""
    data = config.data
    side = side or data.patch_size or data.image_size
    shape = (1, *((data.depth,) if data.depth else ()), side, side)
    channels = data.source_channels * (2 * data.context + 1)
    example = {
        "source": jax.numpy.zeros((*shape, channels), data.source_type),
        "target": jax.numpy.zeros((*shape, 1), data.target_type),
    }
    if "pyramid" in config:  # whose fixed noise is that of the example
        example["index"] = jax.numpy.zeros((1, data.depth), int)
    return example


def _without_loss_files(config):
    """A copy for a System that does not train: a file of its losses may be elsewhere by now."""
    config = config.copy_and_resolve_references()
    for weight in ("perceptual_weight", "segmentation_weight"):
        if weight in config.get("loss", {}):
            config.loss[weight] = 0.0
    return config


def _of_config(config, path):
    """-> (System that does not train, shapes and types of its TrainState).

    Raises:
        WorkdirError: the file that the config was read from lacks fields, or holds others.
    """
    try:
        system = build_system(_without_loss_files(config))
        return system, abstract_state(system, config)
    except (AttributeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise WorkdirError(
            f"{path} does not hold the config of a run ({reason}): restore it or retrain"
        ) from error


def load_run(workdir, which) -> tuple[Any, System, Network, int]:
    """Opens a trained run on this process's first device, for its generator.

    Returns:
        (config, System, Network of the generator, step); the rest as `load_state`.
    """
    config, system, state, step = load_state(workdir, which)
    return config, system, state.generator, step


def load_state(workdir, which) -> tuple[Any, System, TrainState, int]:
    """Opens a trained run on this process's first device.

    Args:
        workdir: a directory that training wrote.
        which: "best", "last" or a step number as text.

    Returns:
        (config, System, TrainState, step).

    Raises:
        WorkdirError: something is missing there.
    """
    config = read_config(workdir)
    system, state = _of_config(config, config_path(workdir))
    directory = checkpoint_path(workdir)
    if not os.path.isdir(directory):
        raise WorkdirError(f"{directory} does not exist: train first")
    checkpoints = Checkpoints(directory, system.task.best_metric, read_only=True)
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
