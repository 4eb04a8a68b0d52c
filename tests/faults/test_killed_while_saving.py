"""A checkpoint cut off by SIGKILL is ignored and cleared; the one before is used."""

import signal

import pytest

from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow


def _arguments(workdir, data_dir):
    """A run whose state has some 28 MB, which take a moment to write."""
    return commands.tiny_training(
        workdir,
        data_dir,
        **{
            "data.batch_size": 12,
            "data.image_size": 32,
            "generator.depth": 5,
            "generator.width": 24,
            "checkpoint_every_steps": 4,
            "checkpoint_every_epochs": 2,
        },
    )


def _unfinished(workdir):
    return list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.parametrize(("processes", "devices"), runs.ONE_FIRST)
def test_what_was_half_written_is_no_checkpoint(sample_data_dir, tmp_path, processes, devices):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = _arguments(killed, sample_data_dir)
    runs.train(_arguments(whole, sample_data_dir), processes, devices=devices)

    for _ in range(10):  # a kill may come when the checkpoint has just got its name
        with runs.started(arguments, processes, devices=devices) as running:
            runs.wait_for(lambda: runs.steps(killed) and _unfinished(killed), running)
            for process in running:
                process.send_signal(signal.SIGKILL)
            runs.finish(running, -signal.SIGKILL)
        if _unfinished(killed):
            break
    (partial,) = _unfinished(killed)
    before = runs.steps(killed)[-1]
    assert int(partial.name.split(".")[0]) > before
    runs.state(killed, str(before))  # is whole

    runs.train(arguments, processes, devices=devices)
    assert not _unfinished(killed)
    runs.assert_equal(whole, killed)
