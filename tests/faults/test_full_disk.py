"""A full or read-only disk gives one line and exit code 1; the last checkpoint is whole."""

import contextlib
import errno
import subprocess
import time

import pytest

from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.logs.logbook import Logbook
from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    """A separate file system of 64 MB; mounting it needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _arguments(workdir, data_dir):
    """A run whose checkpoints have some 11 MB."""
    return commands.tiny_training(
        workdir,
        data_dir,
        **{
            "data.batch_size": 12,
            "data.image_size": 32,
            "generator.depth": 4,
            "generator.width": 24,
            "checkpoint_every_steps": 4,
        },
    )


@pytest.mark.parametrize(("processes", "devices"), runs.ONE_AND_MORE)
def test_a_full_disk(sample_data_dir, disk, tmp_path, processes, devices):
    workdir = disk / "run"
    arguments = _arguments(workdir, sample_data_dir)
    ballast = disk / "ballast"
    with runs.started(arguments, processes, devices=devices) as running:
        runs.wait_for(lambda: runs.steps(workdir), running)
        with contextlib.suppress(OSError), open(ballast, "wb") as file:
            while True:
                file.write(bytes(1 << 16))
        # Process 0 writes; the others end when it is gone.
        _, err = commands.finish(running[0], 1)
        for other in running[1:]:
            other.communicate(timeout=60)
            assert other.returncode != 0
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert str(workdir) in line and "space" in line and "make room" in line, line
    kept = runs.steps(workdir)
    assert kept and runs.state(workdir, str(kept[-1]))

    if processes > 1:
        return  # going on is no different from one process

    ballast.unlink()
    runs.train(arguments, processes, devices=devices)
    whole = tmp_path / "whole"
    runs.train(_arguments(whole, sample_data_dir), processes, devices=devices)
    runs.assert_equal(whole, workdir)


def test_a_read_only_workdir(sample_data_dir, disk):
    workdir = disk / "run"
    workdir.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    _, err = commands.run("launch.train", *_arguments(workdir, sample_data_dir), code=1)
    line = commands.error_line(err)
    assert "Read-only file system" in line and str(workdir) in line


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_full_for_tensorboard_alone(tmp_path):
    """TensorBoard's thread ends, so the run must end: it would wait for the thread for ever."""
    log = Logbook(str(tmp_path), 0, 1000, 10, Clock())
    events = log._writers[0]._board.file_writer.event_writer._ev_writer._py_recordio_writer
    file, events._writer = events._writer, open("/dev/full", "wb")
    with pytest.raises(OSError) as raised:
        for step in range(1, 500):
            log.scalars(step, "train", {f"metric_{number}": 1.0 for number in range(20)})
            time.sleep(0.001)
    assert raised.value.errno == errno.ENOSPC
    with contextlib.suppress(OSError):
        events._writer.close()
    events._writer = file
    log.close()
