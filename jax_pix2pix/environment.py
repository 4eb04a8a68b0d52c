"""What bitwise reproduction depends on besides the config: versions, flags, devices, the code."""

import functools
import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = (
    "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow",
    "tensorflow-cpu", "tensorflow-datasets",
)  # fmt: skip


@functools.cache
def environment():
    """All of these as {name: value}; each checkpoint has a copy."""
    versions = {name: _version(name) for name in PACKAGES}
    device = jax.devices()[0]
    return versions | {
        "python": platform.python_version(),
        "revision": _revision(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "LIBTPU_INIT_ARGS": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "platform": device.client.platform_version,  # CUDA's or libtpu's build
        "device": _processor() if device.device_kind == "cpu" else device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # TensorFlow and libtpu are optional
        return "not installed"


def _revision():
    """The code's commit, with "+" and a hash of the changes if there are any; or "unknown"."""

    def git(*arguments):
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.strip()

    try:
        changes = git("diff", "HEAD")
        digest = f"+{hashlib.sha256(changes).hexdigest()[:12]}" if changes else ""
        return git("rev-parse", "HEAD").decode() + digest
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor():
    """The CPU's model: JAX calls every CPU "cpu", but XLA compiles for each model."""
    try:
        models = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        models = None
    return models[1] if models else platform.machine()
