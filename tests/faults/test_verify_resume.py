"""launch.verify_resume finds equal runs equal, and names what differs in others."""

import re
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError, WorkdirError
from launch import verify_resume
from tests import commands
from tests.faults import runs
from tests.tiny import tiny_config


def _arguments(workdir, data_dir):
    fields = {"data.image_size": 32, "generator.depth": 3, "data.batch_size": 4}
    arguments = commands.tiny_training(workdir, data_dir, **fields)
    return [*arguments, "--steps=10"]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), runs.ONE_FIRST)
def test_equal(sample_data_dir, tmp_path, processes, devices):
    arguments = _arguments(tmp_path / "new", sample_data_dir)
    outputs = runs.train(arguments, processes, devices=devices, module="launch.verify_resume")
    line = outputs[0][0].splitlines()[-1]
    match = re.fullmatch(
        r"equal: 10 steps, interrupted after step (\d+): (\d+) values of the log, "
        r"(\d+) arrays, ([\d,]+) numbers",
        line,
    )
    assert match and 5 < int(match[1]) < 10, line
    assert int(match[2]) > 100 and int(match[3]) > 50
    assert not any("differs" in out for out, _ in outputs)
    # Its verdict is true.
    runs.assert_equal(tmp_path / "new" / "whole", tmp_path / "new" / "interrupted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("order", r"examples of step (\d+) of 10: \["),
        pytest.param("dropout", r"\w+ at step (\d+): ", marks=pytest.mark.long),
    ],
)
def test_what_depends_on_the_start_is_named(sample_data_dir, tmp_path, fault, named):
    arguments = _arguments(tmp_path / "new", sample_data_dir)
    out, _ = commands.run("tests.faults.unrepeatable", fault, *arguments, code=1)
    stopped = int(re.search(r"goes on from step (\d+)", out)[1])
    match = re.match(rf"differs on process 0: {named}", out.splitlines()[-1])
    assert match and int(match[1]) == stopped + 1, out


@pytest.mark.slow
def test_a_signal_from_elsewhere_is_no_difference(sample_data_dir, tmp_path):
    arguments = [*_arguments(tmp_path / "new", sample_data_dir)[:-1], "--steps=1000"]
    with runs.started(arguments, module="launch.verify_resume") as running:
        runs.wait_for(lambda: runs.logged_step(tmp_path / "new" / "whole") >= 3, running)
        running[0].send_signal(signal.SIGTERM)
        ((out, _),) = runs.finish(running, 42)
    assert "stopped on request before there was anything to compare" in out.splitlines()[-1]
    assert "differs" not in out and not (tmp_path / "new" / "interrupted").exists()


@pytest.mark.parametrize("phase", [1, 3])
def test_a_start_that_was_stopped_is_not_compared(tmp_path, monkeypatch, capsys, phase):
    starts = []

    def train(config, directory, seen, interrupt=None):
        starts.append(directory)
        seen[10, len(starts)] = np.zeros(1)
        return len(starts) != phase and not interrupt

    monkeypatch.setattr(verify_resume, "_train", train)
    assert verify_resume.verify(tiny_config(), str(tmp_path / "new"), 10) is None
    assert len(starts) == phase
    assert "stopped on request before" in capsys.readouterr().out.splitlines()[-1]


def test_a_state_that_differs_is_named_to_the_bit():
    def difference(**changed):
        compared = {"arrays": 0, "numbers": 0}
        state = {"kernel": jnp.zeros((2, 3)), "bias": jnp.full(4, np.nan), "step": jnp.int32(7)}
        found = verify_resume._difference_of_states(
            {"params": state}, {"params": state | changed}, compared
        )
        return found, compared["numbers"]

    assert difference() == (None, 11)
    assert difference(kernel=jnp.zeros((2, 3)).at[1, 2].set(-0.0)) == (
        "params.kernel[1, 2]: 0.0, then -0.0",
        4,
    )
    assert difference(step=jnp.int32(8))[0] == "params.step: 7, then 8"


@pytest.mark.parametrize("steps", [6, 11])
def test_steps_without_a_middle_are_refused(tmp_path, steps):
    with pytest.raises(ConfigError, match=f"--steps={steps}: use an even number, 8 or more"):
        verify_resume.verify(tiny_config(), str(tmp_path / "new"), steps)


def test_a_directory_that_exists_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match="exists: name a new --workdir"):
        verify_resume.verify(tiny_config(), str(tmp_path), 20)
