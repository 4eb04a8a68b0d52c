"""A run that gets SIGKILL again and again, at any moment, equals an undisturbed one.

The steps and the delays after them are drawn at random. So it is killed within epochs, before,
while and after checkpoints are written, and in the middle of logging.
"""

import random
import signal
import time

import pytest

from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow
EPOCH = 35  # steps: 142 images in batches of 4
EVERY = 6  # steps between checkpoints


def _arguments(workdir, data_dir, epochs):
    return commands.tiny_training(
        workdir,
        data_dir,
        **{
            "data.batch_size": 4,
            "data.image_size": 32,
            "generator.depth": 3,
            "epochs": epochs,
            "constant_epochs": 2,
            "checkpoint_every_steps": EVERY,
            "checkpoint_every_epochs": epochs,  # with a validation, once
            "sample_every_epochs": epochs,
        },
    )


def _kill(arguments, workdir, rng, processes, **options):
    """Starts the run and kills it 1 to 24 steps after its last logged step, or a bit later.

    Returns:
        The last step that it logged.
    """
    step = runs.logged_step(workdir) + rng.randint(1, 24)
    with runs.started(arguments, processes, **options) as running:
        runs.wait_for(lambda: runs.logged_step(workdir) >= step, running)
        time.sleep(rng.uniform(0, 0.1))
        for process in rng.sample(running, processes):
            process.kill()
        runs.finish(running, -signal.SIGKILL)
    return runs.logged_step(workdir)


@pytest.mark.parametrize(
    ("kills", "epochs", "processes", "devices"),
    [pytest.param(10, 8, 1, 1, marks=pytest.mark.long), (3, 3, 2, 2)],
)
def test_a_run_killed_at_random_again_and_again_equals_one_that_was_not(
    sample_data_dir, tmp_path, kills, epochs, processes, devices
):
    rng = random.Random(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.train(_arguments(whole, sample_data_dir, epochs), processes, devices=devices)

    arguments = _arguments(killed, sample_data_dir, epochs)
    logged, saved = [], []
    for _ in range(kills):
        logged.append(_kill(arguments, killed, rng, processes, devices=devices))
        saved.append(max(runs.steps(killed), default=0))
    assert logged == sorted(set(logged)) and logged[-1] < epochs * EPOCH
    assert sum(step % EPOCH != 0 for step in logged) >= kills - 1
    # Kills cost steps, so some had to be trained again.
    assert sum(log > save for log, save in zip(logged, saved, strict=True)) >= kills // 2
    assert len(set(saved)) >= kills // 2

    runs.train(arguments, processes, devices=devices)
    assert runs.steps(killed)[-1] == epochs * EPOCH
    runs.assert_equal(whole, killed)
