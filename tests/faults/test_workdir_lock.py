"""Two runs in one workdir: the second is refused, unless the first one is dead."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import commands


def _start(workdir, data_dir, processes):
    """The processes of one run, with two devices each where there are several."""
    fields = {"data.batch_size": 16, "epochs": 3, "sample_every_epochs": 3}
    arguments = commands.tiny_training(workdir, data_dir, **fields)
    if processes == 1:
        return [commands.start("launch.train", *arguments)]
    address = f"--coordinator_address=127.0.0.1:{commands.free_port()}"
    return [
        commands.start(
            "launch.train",
            *arguments,
            address,
            f"--num_processes={processes}",
            f"--process_id={number}",
            devices=2,
        )
        for number in range(processes)
    ]


def _holder(workdir):
    try:
        return json.loads((workdir / "lock").read_text())
    except (OSError, ValueError):
        return {}


def _wait_for(condition, process):
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_second_run_is_refused_and_the_first_goes_on(sample_data_dir, tmp_path, processes):
    first = _start(tmp_path, sample_data_dir, processes)
    second = []
    try:
        _wait_for(lambda: _holder(tmp_path).get("pid") == first[0].pid, first[0])
        second = _start(tmp_path, sample_data_dir, processes)
        for process in second:
            _, err = commands.finish(process, 1)
            line = commands.error_line(err)
            assert (
                f"{tmp_path} is in use by process {first[0].pid} on {socket.gethostname()}" in line
            )
            assert f"since {time.strftime('%Y-')}" in line and "another workdir" in line
        assert first[0].poll() is None, "the first run was too short to be in the way"
        for process in first:
            commands.finish(process)
    finally:
        for process in first + second:
            process.kill()
    assert (tmp_path / "checkpoints" / "24").exists()
    assert not (tmp_path / "lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_lock_of_a_dead_run_is_taken_over_without_a_word(sample_data_dir, tmp_path, processes):
    first = _start(tmp_path, sample_data_dir, processes)
    try:
        _wait_for((tmp_path / "checkpoints" / "8").exists, first[0])
    finally:
        for process in first:
            process.kill()
    for process in first:
        commands.finish(process, -signal.SIGKILL)
    assert _holder(tmp_path)["pid"] == first[0].pid  # left behind

    second = _start(tmp_path, sample_data_dir, processes)
    try:
        for process in second:
            _, err = commands.finish(process)
            assert "in use" not in err and "lock" not in err
    finally:
        for process in second:
            process.kill()
    assert (tmp_path / "checkpoints" / "24").exists()


HOLD = """
import sys, time
from jax_pix2pix.workdir_lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def _hold(workdir, seconds):
    arguments = [sys.executable, "-c", HOLD, str(workdir), str(seconds)]
    return subprocess.Popen(
        arguments, cwd=commands.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_of_many_that_start_at_once_one_gets_the_workdir(tmp_path):
    processes = [_hold(tmp_path / "run", 8) for _ in range(4)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert sorted(out for out, _ in outputs) == ["", "", "", "locked\n"]
    assert sum("WorkdirError" in err and "is in use by" in err for _, err in outputs) == 3
    assert not (tmp_path / "run").exists()  # nobody wrote there


def test_a_lock_without_a_name_is_refused_too(tmp_path):
    """Between locking the file and writing into it."""
    holder = _hold(tmp_path, 100)
    try:
        assert holder.stdout.readline() == "locked\n"
        os.truncate(tmp_path / "lock", 0)
        _, err = _hold(tmp_path, 0).communicate(timeout=100)
        assert "in use by another process since a moment ago" in err
    finally:
        holder.kill()
        holder.communicate()
