"""The files of a working directory that can be read without JAX, which takes seconds to import."""

import contextlib
import json
import os
import re
import time

import ml_collections

from jax_pix2pix import config_fields
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.redaction import redacted_value
from jax_pix2pix.tasks.kinds import has_scales

RECORD = "preparation.json"  # how a data set was prepared; a run keeps a copy
MASKS_NOTE = "body masks from files"  # the start of a note in that record
SOURCES_NOTE = "sources are "  # the start of another: "pictures" or "volumes"
_WANDB = re.compile(r"(scale_\d+/)?wandb")  # folders in which W&B makes links of its own


def check_files(workdir):
    """Checks that a workdir, if it exists, holds plain files and folders, before anything is read.

    Raises:
        UnsafeFileError: it holds a link, a pipe or a device.
    """
    if os.path.isdir(workdir):
        safe_files.check_tree(workdir, apart=_WANDB)


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


def scale_directory(workdir, scale):
    """The workdir of one scale of a pyramid."""
    return os.path.join(workdir, f"scale_{scale}")


def last_scale(workdir):
    """The workdir of the finest scale that has a checkpoint, and its number.

    Raises:
        WorkdirError: none has.
    """
    scale = 0
    while _has_checkpoint(scale_directory(workdir, scale)):
        scale += 1
    if not scale:
        raise WorkdirError(f"{workdir} holds no checkpoint of scale_0: train first")
    return scale_directory(workdir, scale - 1), scale - 1


def finest(workdir):
    """The workdir itself; for a pyramid, that of the finest scale with a checkpoint.

    Raises:
        WorkdirError: a pyramid has none.
        UnsafeFileError: as `check_files`, with which a run is opened here.
    """
    check_files(workdir)
    pyramid = os.path.isdir(scale_directory(workdir, 0))
    return last_scale(workdir)[0] if pyramid else workdir


def default_checkpoint(workdir):
    """The checkpoint that is used: "best"; "last" for a scale, whose scores measure no quality."""
    with named_if_incomplete(workdir):
        return "last" if has_scales(read_config(workdir)) else "best"


def _has_checkpoint(directory):
    path = checkpoint_path(directory)
    return os.path.isdir(path) and any(name.isdigit() for name in os.listdir(path))


def check_trained(workdir):
    """Raises WorkdirError where there is no folder of checkpoints."""
    directory = checkpoint_path(workdir)
    if not os.path.isdir(directory):
        raise WorkdirError(f"{directory} does not exist: train first")


# Fields that may change between two starts of a run, since the weights do not depend on them.
CHANGEABLE = (
    # What is written, and how often. Validation and pictures draw no random numbers.
    "log_every_steps", "text_log_every_epochs", "sample_every_epochs", "checkpoint_every_epochs",
    "checkpoint_every_steps", "keep_last",
    # When a run gives up.
    "max_skipped", "watchdog_seconds", "heartbeat_seconds",
    # Where the data lies and is cached; its batches are the same. With on_error=skip they are those
    # of data without the records that would have ended the run.
    "data.cache", "data.data_dir", "data.from_store", "data.on_error",
    # Where parameters lie: sums are in another order, as on another number of devices.
    "fsdp",
    # Not among them: epochs, which sets the learning rate's decay; spike_sigmas, which skips
    # updates; and weights files of losses, since another path may be another network.
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
    """Compares the config with config.json, or writes config.json if it is missing.

    One process of a run calls this. Allowed differences are written to config.json. The values
    that they replace are kept in config_changes.jsonl, one a line.

    Args:
        allowed: fields that may differ; check_changeable must accept them.

    Raises:
        ConfigError: a value holds a key, password or token, which would be written there.
        WorkdirError: the directory belongs to a run with another config, whose refused fields are
            named; or to one whose config is missing.
    """
    config = json.loads(config.to_json())
    new = dict(flat(config))
    _check_secrets(new)
    path = config_path(workdir)
    if not os.path.exists(path):
        if newest_step(workdir) is not None:
            raise WorkdirError(
                f"{path} does not exist, but checkpoints beside it do: restore it, or use another "
                "workdir"
            )
        _write_config(workdir, config)
        return
    old = dict(flat(_read_json(workdir, path)))
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
        _write_config(workdir, config)


def _check_secrets(fields):
    for field, value in fields.items():
        if (shown := redacted_value(str(value))) != str(value):
            raise ConfigError(
                f"config.{field}={shown}: a key, password or token would be written "
                "to config.json and sent to trackers: give it by an environment variable"
            )


def _record_changes(workdir, changes):
    """changes: {field: (old value, new value)}; the old one is None where the field is new."""
    path = os.path.join(workdir, "config_changes.jsonl")
    with safe_files.open_to_append(path, workdir) as file:
        for field, (old, new) in changes.items():
            line = {"time": time.time(), "step": newest_step(workdir), "field": field}
            file.write(json.dumps(line | {"old": old, "new": new}) + "\n")


def newest_step(workdir):
    """The newest checkpoint's step; None for a pyramid, whose scales have their own."""
    path = checkpoint_path(workdir)
    names = os.listdir(path) if os.path.isdir(path) else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _write_config(workdir, config):
    safe_files.write(config_path(workdir), json.dumps(config, indent=2, sort_keys=True), workdir)


def read_config(workdir):
    """The config that a workdir belongs to.

    Raises:
        WorkdirError: it is not there, damaged, or has a field that no run has.
        OSError: it is no plain file, is too large, or cannot be read.
    """
    path = config_path(workdir)
    content = _read_json(workdir, path)
    try:
        config_fields.check(content, config_fields.OPENED_NUMBERS)
    except ConfigError as error:
        raise WorkdirError(f"{path}: {error}") from None
    return ml_collections.ConfigDict(content)


def _read_json(workdir, path):
    try:
        content = safe_files.read_json(path, workdir)
    except FileNotFoundError:
        raise WorkdirError(f"{path} does not exist: is this the workdir of a run?") from None
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path} is not valid JSON ({error}): restore it or retrain") from None
    if not isinstance(content, dict):
        raise WorkdirError(f"{path} does not hold a config: restore it or retrain")
    return content


def notes_of_data(workdir, start):
    """The notes that begin so in the record of a run's data; [] without a sound record."""
    try:
        notes = _read_json(workdir, os.path.join(workdir, RECORD))["notes"]
        return [note for note in notes if note.startswith(start)]
    except (WorkdirError, OSError, KeyError, TypeError, AttributeError):
        return []  # old runs have none


@contextlib.contextmanager
def named_if_incomplete(workdir):
    """Raises errors of a block that reads a run's config as one that names config.json.

    Raises:
        WorkdirError: config.json lacks fields, or holds others.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise WorkdirError(
            f"{config_path(workdir)} does not hold the config of a run ({reason}): restore it or "
            "retrain"
        ) from error
