"""After SIGTERM or SIGUSR1 to any process, all save one step, and restarts go on there."""

import signal

import pytest

from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow
EPOCH = 35  # steps; a signal is noticed within a second, which is some 20 to 80 of them


def _arguments(workdir, data_dir, epochs):
    return commands.tiny_training(
        workdir,
        data_dir,
        **{
            "data.batch_size": 4,
            "data.image_size": 32,
            "generator.depth": 3,
            "epochs": epochs,
            "checkpoint_every_epochs": epochs,
            "sample_every_epochs": epochs,
        },
    )


@pytest.mark.parametrize(
    ("processes", "devices", "epochs", "signals"),
    [
        (1, 1, 10, [(signal.SIGTERM, 0), (signal.SIGUSR1, 0)]),
        pytest.param(
            *(2, 2, 5, [(signal.SIGTERM, 1), (signal.SIGUSR1, 0)]), marks=pytest.mark.long
        ),
    ],
)
def test_all_save_the_same_step_and_the_restart_goes_on(
    sample_data_dir, tmp_path, processes, devices, epochs, signals
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    runs.train(_arguments(whole, sample_data_dir, epochs), processes, devices=devices)

    arguments = _arguments(stopped, sample_data_dir, epochs)
    for number, process in signals:
        begun = runs.logged_step(stopped) + 3
        with runs.started(arguments, processes, devices=devices) as running:
            runs.wait_for(lambda begun=begun: runs.logged_step(stopped) >= begun, running)
            running[process].send_signal(number)
            for rank, (out, _) in enumerate(runs.finish(running, 42)):
                assert "stopped on request and saved" in out
                assert runs.logged(stopped, rank, "asked to stop", "end, exit code 42")
        # The saved step is the last logged one, not an epoch's regular checkpoint.
        assert runs.steps(stopped)[-1] == runs.logged_step(stopped)
        assert begun <= runs.logged_step(stopped) < epochs * EPOCH
    assert len(runs.steps(stopped)) == len(signals)

    runs.train(arguments, processes, devices=devices)
    assert runs.steps(stopped)[-1] == epochs * EPOCH
    runs.assert_equal(whole, stopped)


def test_a_signal_before_the_first_step_is_heard_after_it(sample_data_dir, tmp_path):
    """The signal comes while a run is set up, at its beginning and when it goes on."""
    arguments = _arguments(tmp_path, sample_data_dir, 4)
    for number in (1, 2):
        with runs.started(arguments) as running:
            # JAX listens, and there is no step yet.
            runs.wait_for((tmp_path / "lock").exists, running)
            running[0].send_signal(signal.SIGTERM)
            runs.finish(running, 42)
        assert runs.steps(tmp_path)[-1] == runs.logged_step(tmp_path) == number


def test_a_stop_within_a_logging_interval_changes_no_line(sample_data_dir, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = [
        [*_arguments(folder, sample_data_dir, 5), "--config.log_every_steps=10"]
        for folder in (whole, stopped)
    ]
    runs.train(arguments[0])
    for _ in range(3):  # a stop at the end of an interval shows nothing
        with runs.started(arguments[1]) as running:
            begun = runs.logged_step(stopped) + 10
            runs.wait_for(lambda begun=begun: runs.logged_step(stopped) >= begun, running)
            running[0].send_signal(signal.SIGTERM)
            runs.finish(running, 42)
        if runs.steps(stopped)[-1] % 10:
            break
    assert runs.steps(stopped)[-1] % 10
    runs.train(arguments[1])
    lines = commands.metrics(whole)
    assert [line["step"] for line in lines] == [*range(10, 5 * EPOCH, 10), 5 * EPOCH]
    assert commands.metrics(stopped) == lines
