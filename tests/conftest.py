"""Eight CPU devices for every test, and as little compilation as possible."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from tests import commands

# Before JAX is imported.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    f"{commands.UNOPTIMISED}"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# A program that several runs share, resumed ones for instance, compiles once for all workers.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import pytest

from jax_pix2pix.logs.messages import show_all

show_all()  # functions that tests call print what commands print


@pytest.fixture
def float64():
    """64-bit JAX for one test: gradients before an instance norm are noise in 32 bits."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make) -> a folder that make(folder) filled, once in a session of all workers.

    Read or copy it only: other tests see it too.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name, make):
        folder, done = shared / name, Path(f"{shared / name}.done")
        with open(f"{folder}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def sample_data_dir(made_once):
    """The embedded chest CT, prepared once for all commands that train on it."""
    from input_pipeline.prepared import ensure_prepared
    from tests.tiny import quickstart_data

    return made_once("data", lambda folder: ensure_prepared(quickstart_data(folder)))


@pytest.fixture(scope="session")
def tiny_run(made_once, sample_data_dir):
    """tiny_run(system) -> the workdir of its tiny training of two epochs; copy it to use it."""

    def get(system):
        def train(workdir):
            arguments = commands.tiny_training(workdir, sample_data_dir, system)
            commands.run("launch.train", *arguments)

        return made_once(f"tiny_{system}", train)

    return get
