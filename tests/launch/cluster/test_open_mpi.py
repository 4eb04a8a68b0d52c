"""A real mpirun is stopped: its processes save, and it ends with their exit code."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from jax_pix2pix.errors import EXIT_RESTART
from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow


def test_sigterm_saves_and_ends_with_42(sample_data_dir, tmp_path):
    if shutil.which("mpirun") is None:
        if "CI" in os.environ:
            pytest.fail("needs mpirun")
        pytest.skip("needs mpirun")
    fields = {"data.image_size": 32, "generator.depth": 3, "data.batch_size": 4, "epochs": 90}
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **fields)
    with open(tmp_path / "output", "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                *(commands.ROOT / "launch/cluster/open_mpi/mpirun.sh", "--allow-run-as-root"),
                *("--oversubscribe", "-n", "2", sys.executable, "-m", "launch.train", *arguments),
            ],
            cwd=commands.ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": commands.UNOPTIMISED},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        runs.wait_for(lambda: runs.logged_step(tmp_path / "run") >= 3, [process])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == EXIT_RESTART, (tmp_path / "output").read_text()
    assert runs.steps(tmp_path / "run") == [runs.logged_step(tmp_path / "run")]
    for process in range(2):
        assert runs.logged(tmp_path / "run", process, "asked to stop", "end, exit code 42")
