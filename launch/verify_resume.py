"""Checks on this machine that an interrupted run resumes bit for bit:

    python -m launch.verify_resume --config=configs/lidc_mask2ct.py --workdir=DIR

Start it as launch.train, with the same flags, for any number of processes. It trains a few steps of
this config into DIR/whole, and again into DIR/interrupted, where the last process gets SIGTERM half
way. All processes save and stop, as for any preemption, and a second start, in the same process,
resumes from the checkpoint. Then it compares both runs. It prints what is equal and exits with 0,
or prints what differs first and exits with 1. If one of the two starts that should finish is itself
asked to stop, nothing is compared and the exit code is 42.
"""

import os
import signal
import time

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from input_pipeline.dataset import Dataset
from jax_pix2pix import config_fields, pyramid, sharding
from jax_pix2pix.errors import EXIT_RESTART, ConfigError, TrainingError, WorkdirError
from jax_pix2pix.logs.metrics_log import read_metrics
from jax_pix2pix.runs import workdir, workdir_files
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.processes.first_process import on_first_process
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.start import Start
from jax_pix2pix.tasks.kinds import has_scales
from jax_pix2pix.train import train
from launch.process import command, distributed, train_flags

_STEPS = flags.DEFINE_integer(
    "steps",
    20,
    "even number of steps to train; for a pyramid at its coarsest scale: the finer ones take more",
)

flags.mark_flags_as_required(["config", "workdir"])

NOTICE_SECONDS = 3  # JAX checks once a second for SIGTERM
LATE = 1_000_000  # epochs; the last one always validates and draws
MEASURED = ("time", "images_per_second", "input_wait")  # fields of a log line


def main():
    config, directory = train_flags.CONFIG.value, train_flags.WORKDIR.value
    storage.check_local("workdir", directory)
    distributed.initialize(config.heartbeat_seconds)
    equal = verify(config, directory, _STEPS.value)
    return {True: 0, False: 1, None: EXIT_RESTART}[equal]


def verify(config, directory, steps):
    """Trains twice, once with an interruption, and prints whether both are equal.

    Args:
        config: of the run to check; its training is shortened.
        directory: a new folder for the two runs.
        steps: number of steps of each run.

    Returns:
        Whether they are equal, the same on all processes; None if the machine asked a run to stop
        before they could be compared.

    Raises:
        ConfigError: steps is odd or less than 8.
        WorkdirError: the directory exists.
        TrainingError: the signal did not stop the run.
    """
    if steps < 8 or steps % 2:
        raise ConfigError(f"--steps={steps}: use an even number, 8 or more")
    on_first_process(lambda: _check_new(directory))
    config = shortened(config, steps)
    config_fields.check(config.to_dict())
    scales = pyramid.scales(config) if has_scales(config) else [config]
    last = scales[-1].epochs * steps // 2  # step, of the finest scale
    middle = last // 2 + 1  # not the end of an epoch
    whole, interrupted = (os.path.join(directory, name) for name in ("whole", "interrupted"))

    _say("1 of 3: a run without an interruption")
    expected = {}
    if not _train(config, whole, expected):
        return _not_compared()
    _say(f"2 of 3: the same with SIGTERM to process {jax.process_count() - 1} at step {middle}")
    batches = {}
    if _train(config, interrupted, batches, interrupt=(last, middle)):
        raise TrainingError(
            f"the run went on to its end, {last - middle} steps after SIGTERM: use more --steps"
        )
    _, stopped = list(batches)[-1]
    _say(f"3 of 3: it goes on from step {stopped}")
    if not _train(config, interrupted, batches):
        return _not_compared()

    difference = _difference_of_batches(expected, batches)
    compared = {"values of the log": 0, "arrays": 0, "numbers": 0}
    for number in range(len(scales)):
        name = f"scale_{number}" if has_scales(config) else ""
        runs = [os.path.join(run, name) for run in (whole, interrupted)]
        found = None
        if jax.process_index() == 0:
            found = _difference_of_logs(*map(_log, runs), compared)
        # Every process opens all checkpoints, whatever it has found so far.
        states = [_last_state(run) for run in runs]
        found = found or _difference_of_states(*states, compared)
        if found and not difference:
            difference = f"{name} {found}".lstrip()

    differing = multihost_utils.process_allgather(np.array([difference is not None])).any()
    if difference:
        print(f"differs on process {jax.process_index()}: {difference}", flush=True)
    elif not differing:
        counts = ", ".join(f"{count:,} {what}" for what, count in compared.items())
        _say(f"equal: {len(expected)} steps, interrupted after step {stopped}: {counts}")
    return not bool(differing)


def shortened(config, steps):
    """A copy with `steps` steps in two epochs, the second with a falling learning rate.

    It logs every step, and validates and draws only at its end.
    """
    config = config.copy_and_resolve_references()
    config.epochs, config.steps_per_epoch = 2, steps // 2
    if "constant_epochs" in config:  # a pyramid's scale has its own rule
        config.constant_epochs = 1
    config.log_every_steps = config.text_log_every_epochs = 1
    config.checkpoint_every_steps = 0
    config.checkpoint_every_epochs = config.sample_every_epochs = LATE
    return config


def _check_new(directory):
    if os.path.exists(directory):
        raise WorkdirError(
            f"{directory} exists: name a new --workdir, as this trains two runs there"
        )


def _say(line):
    if jax.process_index() == 0:
        print(line, flush=True)


def _not_compared():
    _say("stopped on request before there was anything to compare: start with a new --workdir")


def _train(config, directory, seen, interrupt=None):
    """Trains and records batches. -> whether it finished.

    Args:
        seen: gets {(the run's last step, step): numbers of this process's examples}.
        interrupt: a key of seen; at its batch the last process of the run gets SIGTERM.
    """

    steps = config.steps_per_epoch

    class Watched(Dataset):
        steps_per_epoch = steps

        def train_batches(self, start, stop, host=0, hosts=1):
            # Started here, not in `watched`, to read while the step is compiled.
            batches = super().train_batches(start, stop, host, hosts)

            def watched():
                for step, batch in enumerate(batches, start + 1):
                    seen[stop, step] = np.array(batch["index"])
                    if (stop, step) == interrupt and jax.process_index() == jax.process_count() - 1:
                        os.kill(os.getpid(), signal.SIGTERM)
                        time.sleep(NOTICE_SECONDS)
                    yield batch

            return watched()

    config = config.copy_and_resolve_references()  # training fills in fields from the data
    dataset = Watched(config.data, prepare=True)
    return train(config, directory, dataset, Start(coordinator=distributed.coordinator()))


def _log(directory):
    """The logged lines of training and validation, without fields that measure the machine."""
    return [
        {name: x for name, x in line.items() if name not in MEASURED}
        for line in read_metrics(directory)
        if line["split"] in ("train", "validation")
    ]


def _last_state(directory):
    """The state of the run's last checkpoint, placed as training had it."""
    config = workdir_files.read_config(directory)
    system = workdir.build_system(config)
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size)
    abstract = workdir.abstract_state(system, config)
    placed = sharding.with_shardings(abstract, sharding.state_shardings(mesh, abstract))
    path = workdir_files.checkpoint_path(directory)
    checkpoints = Checkpoints(path, system.task.best_metric, read_only=True)
    state = checkpoints.restore(checkpoints.resolve("last"), placed)
    checkpoints.close()
    return state


def _difference_of_batches(expected, batches):
    for (total, step), index in sorted(expected.items()):
        other = batches[total, step]
        if not np.array_equal(index, other):
            return f"examples of step {step} of {total}: {index.tolist()}, then {other.tolist()}"
    return None


def _difference_of_logs(expected, lines, compared):
    """The first difference, or None. compared: counts, to which the values are added."""
    if len(expected) != len(lines):
        return f"metrics.jsonl: {len(expected)} lines, then {len(lines)}"
    for line, other in zip(expected, lines, strict=True):
        for name in line | other:
            if line.get(name) != other.get(name):
                return f"{name} at step {line['step']}: {line.get(name)}, then {other.get(name)}"
        compared["values of the log"] += len(line)
    return None


def _difference_of_states(expected, state, compared):
    """The first difference in bits on this process's devices. compared: counts to add to."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(expected)
    for (path, x), other in zip(leaves, jax.tree.leaves(state), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for shard, its in zip(x.addressable_shards, other.addressable_shards, strict=True):
            a, b = np.asarray(shard.data), np.asarray(its.data)
            if a.tobytes() != b.tobytes():
                place = _first_different(a, b)
                start = [axis.start or 0 for axis in shard.index]
                index = [int(i + first) for i, first in zip(place, start, strict=True)]
                return f"{name}{index or ''}: {a[place]!s}, then {b[place]!s}"
        compared["arrays"] += 1
        compared["numbers"] += x.size
    return None


def _first_different(a, b):
    """The index of the first element whose bits differ."""
    size = a.dtype.itemsize
    rows = [np.frombuffer(x.tobytes(), np.uint8).reshape(-1, size) for x in (a, b)]
    return np.unravel_index(np.argmax((rows[0] != rows[1]).any(1)), a.shape)


if __name__ == "__main__":
    command.run(main)
