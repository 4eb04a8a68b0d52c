"""One process of two is lost: the other ends soon, names it, and both can start again."""

import signal
import socket
import time

import pytest

from jax_pix2pix.errors import EXIT_RESTART
from tests import commands
from tests.faults import runs

pytestmark = [pytest.mark.slow, pytest.mark.alone]
HEARTBEAT = 10  # seconds


@pytest.mark.parametrize("lost", [0, 1])
def test_the_other_process_ends_within_twice_the_heartbeat(sample_data_dir, tmp_path, lost):
    arguments = commands.tiny_training(
        tmp_path,
        sample_data_dir,
        **{
            "data.batch_size": 4,
            "data.image_size": 32,
            "generator.depth": 3,
            "checkpoint_every_steps": 4,
            "heartbeat_seconds": HEARTBEAT,
        },
    )
    with runs.started(arguments, 2, devices=2) as running:
        runs.wait_for(lambda: runs.logged_step(tmp_path) >= 6, running)
        running[lost].kill()
        start = time.monotonic()
        other = running[1 - lost]
        out, err = other.communicate(timeout=3 * HEARTBEAT)
        assert time.monotonic() - start < 2 * HEARTBEAT
        # JAX ends it by a signal, unless a collective fails first. A launcher starts both again.
        assert other.returncode in (-signal.SIGABRT, EXIT_RESTART), (other.returncode, out, err)
        line = [line for line in err.splitlines() if line.startswith("error: ")][-1]
        assert f"process {lost} on {socket.gethostname()}" in line and "was lost" in line
        last = runs.process_log(tmp_path, 1 - lost).splitlines()[-1]
        assert f"[{1 - lost}/2] ERROR {line}" in last
    assert 4 <= runs.logged_step(tmp_path) < 70

    runs.train(arguments, 2, devices=2)
    assert runs.steps(tmp_path)[-1] == 70
    assert [line["step"] for line in commands.metrics(tmp_path)] == list(range(1, 71))


def test_a_process_that_fails_holds_the_other_up_no_longer(sample_data_dir, tmp_path):
    """The process fails by an unforeseen exception."""
    fields = {"data.image_size": 32, "generator.depth": 3, "heartbeat_seconds": HEARTBEAT}
    arguments = commands.tiny_training(tmp_path, sample_data_dir, **fields)
    module = "tests.faults.failing_reader"
    with runs.started([*arguments, "--fail_at=4"], 2, module=module) as running:
        _, err = commands.finish(running[1], 1)
        start = time.monotonic()
        assert "KeyError: 'a mistake'" in err
        running[0].communicate(timeout=3 * HEARTBEAT)
        assert time.monotonic() - start < 2 * HEARTBEAT
        assert running[0].returncode in (-signal.SIGABRT, EXIT_RESTART)
