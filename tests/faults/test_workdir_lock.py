"""Two runs in one workdir: the second is refused, unless the first one is dead."""

import json
import os
import signal
import socket
import time

import pytest

from tests import commands
from tests.faults import runs


def _arguments(workdir, data_dir):
    """A run of 8 steps per epoch that outlasts all that happens here."""
    fields = {"data.batch_size": 16, "epochs": 1000, "sample_every_epochs": 1000}
    return commands.tiny_training(workdir, data_dir, **fields)


def _holder(workdir):
    try:
        return json.loads((workdir / "lock").read_text())
    except (OSError, ValueError):
        return {}


def _has_gone_on(workdir):
    """-> a condition: there is a newer checkpoint than those of now."""
    step = max(runs.steps(workdir), default=0)
    return lambda: max(runs.steps(workdir), default=0) > step


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), runs.ONE_AND_MORE)
def test_a_second_run_is_refused_until_the_first_is_dead(
    sample_data_dir, tmp_path, processes, devices
):
    arguments = _arguments(tmp_path, sample_data_dir)
    with runs.started(arguments, processes, devices=devices) as first:
        runs.wait_for(lambda: _holder(tmp_path).get("pid") == first[0].pid, first)
        for _, err in runs.train(arguments, processes, 1, devices=devices):
            line = commands.error_line(err)
            assert (
                f"{tmp_path} is in use by process {first[0].pid} on {socket.gethostname()}" in line
            )
            assert f"since {time.strftime('%Y-')}" in line and "another workdir" in line
        runs.wait_for(_has_gone_on(tmp_path), first)  # it was not disturbed
        for process in first:
            process.kill()
        runs.finish(first, -signal.SIGKILL)
    assert _holder(tmp_path)["pid"] == first[0].pid  # left behind

    with runs.started(arguments, processes, devices=devices) as second:
        runs.wait_for(_has_gone_on(tmp_path), second)
        assert _holder(tmp_path)["pid"] == second[0].pid
        second[-1].send_signal(signal.SIGTERM)
        for _, err in runs.finish(second, 42):
            assert "in use" not in err and "lock" not in err
    assert not (tmp_path / "lock").exists()


HOLD = """
import sys, time
from jax_pix2pix.runs.workdir_lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _hold(workdir, seconds):
    return commands.python("-c", HOLD, str(workdir), str(seconds))


@pytest.mark.slow
def test_of_many_that_start_at_once_one_gets_the_workdir(tmp_path):
    processes = [_hold(tmp_path / "run", 8) for _ in range(4)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert sorted(out for out, _ in outputs) == ["", "", "", "locked\n"]
    assert sum("WorkdirError" in err and "is in use by" in err for _, err in outputs) == 3
    assert not (tmp_path / "run").exists()  # nobody wrote there


def test_a_lock_without_a_name_is_refused_too(tmp_path):
    """A process locks the file before it writes its name into it."""
    holder = _hold(tmp_path, 100)
    try:
        assert holder.stdout.readline() == "locked\n"
        os.truncate(tmp_path / "lock", 0)
        _, err = _hold(tmp_path, 0).communicate(timeout=100)
        assert "in use by another process since a moment ago" in err
    finally:
        holder.kill()
        holder.communicate()
