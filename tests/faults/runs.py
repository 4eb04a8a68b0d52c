"""Training runs of one process or several, and the comparison of two finished ones."""

import contextlib
import json
import re
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_pix2pix.adversarial import create_state
from jax_pix2pix.logs.process_log import log_path
from jax_pix2pix.runs.workdir import build_system, example_batch, load_state
from jax_pix2pix.runs.workdir_files import read_config
from tests import commands

# (processes, devices of each). Two of two cover all that one does, and more. Where one covers
# nearly all of it, the many minutes of two are left to a release.
ONE_AND_MORE = [pytest.param(1, 1, marks=pytest.mark.long), (2, 2)]
ONE_FIRST = [(1, 1), pytest.param(2, 2, marks=pytest.mark.long)]


@contextlib.contextmanager
def started(arguments, processes=1, module="launch.train", each=None, **options):
    """Starts one run of so many processes, none of which outlives the block. -> [Popen].

    Args:
        arguments: of the command; several processes also get flags to find each other.
        each: options of commands.start for each process, and its own further "arguments".
        options: of commands.start, for all.
    """
    flags = [[]]
    if processes > 1:
        address = f"--coordinator_address=127.0.0.1:{commands.free_port()}"
        flags = [
            [address, f"--num_processes={processes}", f"--process_id={number}"]
            for number in range(processes)
        ]
    running = []
    try:
        for number in range(processes):
            own = options | (each[number] if each else {})
            words = [*arguments, *flags[number], *own.pop("arguments", ())]
            running.append(commands.start(module, *words, **own))
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()


def finish(running, code=0):
    """Waits for all processes, which must end with this exit code. -> [(stdout, stderr)]."""
    return [commands.finish(process, code) for process in running]


def train(arguments, processes=1, code=0, **options):
    """Makes one run from its start to its end. -> [(stdout, stderr)]."""
    with started(arguments, processes, **options) as running:
        return finish(running, code)


def wait_for(condition, running, timeout=300):
    """Waits until the condition holds. Fails if a process ends first, or after the timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        for process in running:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"waited {timeout} s"
        time.sleep(0.005)


def logged_step(workdir):
    """The step of the last whole line of metrics.jsonl; 0 before there is one."""
    log = Path(workdir) / "metrics.jsonl"
    whole = log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []
    return json.loads(whole[-1])["step"] if whole else 0


def process_log(workdir, process=0):
    """The text of a process's own log."""
    return Path(log_path(str(workdir), process)).read_text(encoding="utf-8")


def logged(workdir, process, *patterns):
    """Whether a process's log has these patterns, in this order."""
    return re.search(".*".join(patterns), process_log(workdir, process), re.DOTALL)


def steps(workdir):
    """The steps of a run's finished checkpoints, in order."""
    names = [path.name for path in (Path(workdir) / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def state(workdir, which="last"):
    """All arrays of a checkpoint, of both networks and optimisers: {dotted name: array}."""
    with warnings.catch_warnings():  # about other devices than those that wrote it
        warnings.filterwarnings("ignore", message="this checkpoint was written elsewhere")
        _, _, restored, _ = load_state(str(workdir), which)
    leaves, _ = jax.tree_util.tree_flatten_with_path(restored)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves
    }


def fresh_state(workdir):
    """The state that a run of this workdir's config begins with, on this process's devices."""
    config = read_config(workdir)
    system = build_system(config)
    return create_state(system, jax.random.key(config.seed), example_batch(config))


def assert_equal(a, b):
    """Asserts equal bits in the last checkpoints and in the logs, except speed and time."""
    ours, theirs = state(a), state(b)
    assert ours.keys() == theirs.keys()
    assert any("opt_state" in name for name in ours)
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=name, strict=True)
    for split in ("train", "validation"):
        assert commands.metrics(a, split) == commands.metrics(b, split)
        assert commands.metrics(a, split)
    lines = commands.metrics(a)
    assert [line["step"] for line in lines] == list(range(1, steps(a)[-1] + 1))
    assert {"batch_ids", "learning_rate", "loss_G", "loss_D"} <= lines[0].keys()
    # Equality alone says little: runs whose batches never change are equal too.
    assert 2 * len({line["batch_ids"] for line in lines}) > len(lines)
