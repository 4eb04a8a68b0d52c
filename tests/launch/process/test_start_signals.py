"""Signals that come while a command imports, or waits for the other processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jax_pix2pix.errors import EXIT_INTERRUPTED, EXIT_RESTART
from launch.process import start_signals
from tests.commands import ROOT, free_port

TRAIN = ["-m", "launch.train", "--config=configs/lidc_mask2ct.py:quickstart"]


def _started(*arguments, words=TRAIN):
    """Starts a new Python, whose imports have hardly begun when it hears signals. -> Popen."""
    process = subprocess.Popen(
        [sys.executable, *words, *arguments],
        cwd=ROOT,
        # Tests in this process may have set what a launcher sets.
        env={k: v for k, v in os.environ.items() if k not in start_signals.VARIABLES},
        # A shell starts what runs in its background deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while len(os.listdir(f"/proc/{process.pid}/task")) == 1:  # the second thread listens
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("words", "number", "code", "message"),
    [
        (TRAIN, signal.SIGTERM, EXIT_RESTART, "stopped on request before training began"),
        (TRAIN, signal.SIGUSR1, EXIT_RESTART, "stopped on request before training began"),
        (["-m", "launch.train"], signal.SIGINT, EXIT_INTERRUPTED, "interrupted"),
        (["-m", "launch.predict"], signal.SIGINT, EXIT_INTERRUPTED, "interrupted"),
    ],
)
def test_a_process_alone_ends_at_once(tmp_path, words, number, code, message):
    process = _started(f"--workdir={tmp_path}", words=words)
    start = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - start < 3
    assert process.returncode == code and err.startswith(f"error: {message}"), err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_process_of_two_takes_the_other_with_it(tmp_path, stopped):
    place = [f"--coordinator_address=127.0.0.1:{free_port()}", "--num_processes=2"]
    processes = [
        _started(f"--workdir={tmp_path / 'run'}", *place, f"--process_id={number}")
        for number in range(2)
    ]
    processes[stopped].send_signal(signal.SIGTERM)
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == EXIT_RESTART, err
        assert err.startswith(f"error: process {stopped} on ") and err.count("\n") == 1, err
        assert "was asked to stop before training began" in err
    assert not (tmp_path / "run").exists()
