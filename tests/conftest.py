"""Eight CPU devices for every test, and as little compilation as possible."""

import os
import tempfile

# Before JAX is imported. Unoptimised code compiles 3 to 12 times faster.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Runs of the same program, resumed ones for instance, compile once in a session of all workers.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import pytest


@pytest.fixture
def float64():
    """64-bit JAX for one test: gradients before an instance norm are noise in 32 bits."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def sample_data_dir(tmp_path_factory):
    """The embedded chest CT, prepared once for all commands that train on it."""
    from input_pipeline.prepared import ensure_prepared
    from tests.tiny import quickstart_data

    data_dir = tmp_path_factory.mktemp("data")
    ensure_prepared(quickstart_data(data_dir))
    return data_dir
