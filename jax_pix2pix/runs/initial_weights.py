"""Begins a run, or a scale of a pyramid, with the weights of another.

Networks, their statistics and averages are taken; optimizers, steps and random numbers begin anew.
What was taken, and from where, is recorded in the workdir, so that a run says what it began with,
and restarts before its first checkpoint take the same.
"""

import hashlib
import json
import os

import jax

from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.runs import known_patients, workdir, workdir_files
from jax_pix2pix.runs.file_digests import NAME as DIGESTS
from jax_pix2pix.runs.processes.first_process import arrays_of_first_process, on_first_process
from jax_pix2pix.runs.stores import remote_workdir, storage
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.sharding import placed
from jax_pix2pix.tasks.kinds import has_scales

RECORD = "init_from.json"
TAKEN = ("params", "batch_stats", "average")  # of a Network
NETWORKS = ("generator", "discriminator")


def weights(state, names=TAKEN):
    """{network: {name: pytree}} of a TrainState."""
    return {
        network: {name: getattr(getattr(state, network), name) for name in names}
        for network in NETWORKS
    }


def with_weights(state, read, shardings, names=TAKEN):
    """A state with the weights that read() gives on process 0, which all processes get.

    Args:
        state: TrainState of fresh weights.
        read: () -> as `weights`; the other processes may not see its files.
        shardings: of ``state``, a pytree of the same structure.
    """
    taken = arrays_of_first_process(on_first_process(read), weights(state, names))
    networks = {name: getattr(state, name).replace(**taken[name]) for name in NETWORKS}
    return placed(state.replace(**networks), shardings)


def warm_start(record, scale, state, shardings):
    """``state`` with the recorded run's weights. Its signature ends as `fit` calls a warm start.

    Args:
        record: from `recorded`.
        scale: of a pyramid; 0 of any other run.

    Raises:
        WorkdirError: the run or the checkpoint is gone, damaged, or no longer that of the record.
    """
    averaged = state.generator.average is not None

    def read():
        source = record["scales"][scale]
        with remote_workdir.copied(record["run"]) as folder:
            folder = _folder(folder, scale)
            if _digest(folder, source["step"]) != source["digest"]:
                raise WorkdirError(
                    f"{folder}: the checkpoint of step {source['step']} is not the one with which "
                    "this run began: restore that, or use another workdir"
                )
            _, _, taken, _ = workdir.load_state(folder, str(source["step"]))
        found = weights(taken)
        return found | {"generator": with_average(found["generator"], averaged)}

    return with_weights(state, read, shardings)


def recorded(directory, run, checkpoint, scales):
    """What a run begins with, from its record or, if it has none yet, from looking. Process 0 only.

    Args:
        directory: the workdir that trains.
        run: the workdir, or url of one, whose weights are taken; None for none.
        checkpoint: "best", "last" or a step as text.
        scales: [(config, System)] of the run that trains, coarsest first, or the only one.

    Returns:
        {"run", "checkpoint", "taken": names, "scales": [{"step", "digest", "config": {field:
        [there, here]}}]}, or None if it begins with fresh weights.

    Raises:
        ConfigError: weights do not fit; the fields that differ are named.
        WorkdirError: the workdir's run began with others, or there is no such run or checkpoint.
    """
    before = _read(directory)
    if run is None:
        if before:
            raise WorkdirError(
                f"{directory} began with the weights of {before['run']}: give "
                f"--init_from={before['run']} --init_checkpoint={before['checkpoint']} again, or "
                "use another workdir"
            )
        return None
    run = _named(run)
    if before:
        if (before["run"], before["checkpoint"]) != (run, checkpoint):
            raise WorkdirError(
                f"{directory} began with the weights of {before['run']}, {before['checkpoint']}, "
                f"and not of {run}, {checkpoint}: use another workdir"
            )
        return before
    if os.path.exists(workdir_files.config_path(directory)):
        raise WorkdirError(
            f"{directory} holds a run that began without --init_from: use another workdir"
        )
    with remote_workdir.copied(run) as folder:
        workdir_files.check_files(folder)
        found = [_described(folder, number, checkpoint, *one) for number, one in enumerate(scales)]
    taken = [f"{network}.{name}" for network in NETWORKS for name in TAKEN]
    return {"run": run, "checkpoint": checkpoint, "taken": taken, "scales": found}


def write(directory, record):
    """Records what a run begins with, in its workdir, and whom the other run has seen."""
    seen = os.path.join(directory, known_patients.BEFORE)
    if not os.path.exists(seen):  # the other run may be gone when this one is resumed
        with remote_workdir.copied(record["run"], checkpoints=False) as folder:
            table = known_patients.seen_table(folder)
        remote_workdir.write_at_once(seen, table)
    # At once in a store too: config.json without it is of a run that began without.
    content = json.dumps(record, indent=2, sort_keys=True)
    remote_workdir.write_at_once(os.path.join(directory, RECORD), content)


def _named(run):
    """The run's url, or its absolute path: a record is read from any folder."""
    if redacted(run) != run:
        raise ConfigError(
            f"--init_from={redacted(run)}: a key, password or token would be written to {RECORD}: "
            "give it by an environment variable"
        )
    return run if storage.is_remote(run) else os.path.abspath(expanded(run))


def _read(directory):
    """The record of a workdir; None if it has none."""
    path = os.path.join(directory, RECORD)
    try:
        record = safe_files.read_json(path, directory)
        texts = [record["run"], record["checkpoint"], *(x["digest"] for x in record["scales"])]
        steps = [type(scale["step"]) is int for scale in record["scales"]]
        if all(steps) and all(isinstance(text, str) for text in texts):
            return record
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise WorkdirError(f"{path} does not say what the run began with: use another workdir")


def _folder(folder, scale):
    """The workdir whose weights a scale takes: that of the same scale, if there are scales."""
    if not os.path.isdir(workdir_files.scale_directory(folder, 0)):
        return folder
    of_scale = workdir_files.scale_directory(folder, scale)
    if not os.path.isdir(of_scale):
        raise ConfigError(f"{folder} holds no scale_{scale}, which this run has: train it first")
    return of_scale


def _described(folder, scale, checkpoint, config, system):
    """What of a run one scale begins with, if its weights fit."""
    folder = _folder(folder, scale)
    theirs, their_system, state = workdir.described(folder)
    if theirs.task != config.task:
        raise ConfigError(
            f"{folder} is of config.task={theirs.task}, and this run of {config.task}: begin with "
            "a run that makes the same"
        )
    if has_scales(theirs) != has_scales(config):
        raise ConfigError(
            f"{folder} is of config.system={theirs.system}, and this run of {config.system}: the "
            "one is a pyramid and the other is not"
        )
    there, here = (dict(workdir_files.flat(json.loads(one.to_json()))) for one in (theirs, config))
    differences = {
        field: [there.get(field), here.get(field)]
        for field in sorted(there | here)
        if there.get(field) != here.get(field)
    }
    if _shapes(state) != _shapes(workdir.abstract_state(system, config)):
        named = [x for x in differences if _changes_shapes(theirs, x, here.get(x), state)]
        shown = "; ".join(
            f"{field}: {differences[field][0]} there, {differences[field][1]} here"
            for field in named or differences
        )
        raise ConfigError(f"the weights of {folder} do not fit this config ({shown}): use theirs")
    checkpoints = workdir.checkpoints_of(folder, their_system)
    step = checkpoints.resolve(checkpoint)
    checkpoints.check_sound(step)
    checkpoints.close()
    return {"step": step, "digest": _digest(folder, step), "config": differences}


def _shapes(state):
    """Names, shapes and types of what is taken, but for averages, which can be made."""
    leaves = jax.tree_util.tree_leaves_with_path(weights(state, ("params", "batch_stats")))
    return [(jax.tree_util.keystr(path), x.shape, x.dtype) for path, x in leaves]


def _changes_shapes(config, field, value, state):
    """Whether the run's config, with this value of one field, has other weights than its state."""
    changed = config.copy_and_resolve_references()
    try:
        with changed.unlocked():
            changed.update_from_flattened_dict({field: value})
        return _shapes(workdir.abstract_state(workdir.build_system(changed), changed)) != _shapes(
            state
        )
    except (ConfigError, AttributeError, TypeError, LookupError):
        return True


def with_average(network, averaged):
    """A generator's weights for a run that averages them, or does not."""
    average = network["average"] if network["average"] is not None else network["params"]
    return network | {"average": average if averaged else None}


def _digest(folder, step):
    """SHA-256 of a checkpoint's digests, and so of what it holds."""
    folder = os.path.join(workdir_files.checkpoint_path(folder), str(step))
    try:
        content = safe_files.read(os.path.join(folder, DIGESTS), safe_files.MAX_JSON, folder)
    except FileNotFoundError:
        raise WorkdirError(f"{folder} does not exist: this run begins with it") from None
    return hashlib.sha256(content).hexdigest()
