"""A reader that hangs: every process ends by itself, says where it stood and asks for a restart."""

import time

import pytest

from jax_pix2pix.runs.processes.watchdog import Watchdog
from tests import commands
from tests.faults import runs

SECONDS = 15


def _arguments(workdir, data_dir, **fields):
    tiny = {
        "data.batch_size": 14,
        "data.image_size": 32,
        "generator.depth": 3,
        "checkpoint_every_steps": 4,
    }
    return commands.tiny_training(workdir, data_dir, **tiny | fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 1)]
)
def test_a_hung_reader_ends_the_run(sample_data_dir, tmp_path, processes, devices):
    arguments = _arguments(tmp_path, sample_data_dir, watchdog_seconds=SECONDS)
    hanging = [*arguments, "--hang_at=7"]
    module = "tests.faults.hung_reader"
    with runs.started(hanging, processes, module=module, devices=devices) as running:
        runs.wait_for(lambda: runs.logged_step(tmp_path) == 5, running)  # and 6 is not read yet
        start = time.monotonic()
        outputs = runs.finish(running, 42)
        assert time.monotonic() - start < 3 * SECONDS
    # Process 0 waits for the hung one: either its own time passes or the connection closes.
    *waiting, hung = [
        [line for line in err.splitlines() if line.startswith("error: ")] for _, err in outputs
    ]
    for lines in (*waiting, hung):
        assert lines and all("start the same command again" in line for line in lines)
    assert "nothing has moved for 15 s" in hung[0]
    assert runs.logged(tmp_path, processes - 1, "error: nothing has moved", "exit code 42")
    (stacks,) = tmp_path.glob(f"stacks_{processes - 1}_*.txt")
    assert "_wait_for_the_file_server" in stacks.read_text()

    runs.train(arguments, processes, devices=devices)
    assert runs.steps(tmp_path)[-1] == 20
    assert [line["step"] for line in commands.metrics(tmp_path)] == list(range(1, 21))


def test_whoever_shows_signs_of_life_is_left_alone(tmp_path):
    """Otherwise this process would end here."""
    watchdog = Watchdog(0.5, tmp_path)
    watchdog.start()
    for _ in watchdog.each(range(4)):
        time.sleep(0.3)
    watchdog.stop()
    time.sleep(0.6)
    assert not list(tmp_path.iterdir())
