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


# Flags of XLA that say where it writes, but not what it computes; devices are counted instead.
_WITHOUT_EFFECT = re.compile(r"--xla_dump|--xla_\w+_dir$|--xla_force_host_platform_device_count$")
_NAMES_OF_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def numerics():
    """What else decides the numbers that one process of a run computes: {name: value}."""
    kinds = [device.device_kind for device in jax.local_devices()]
    settings = {
        "the code of jax_pix2pix": code_digest(Path(__file__).parent),
        "the devices of a process": f"{len(kinds)} {', '.join(sorted(set(kinds)))}",
        "JAX_ENABLE_X64": jax.config.jax_enable_x64,
        "JAX_DEFAULT_PRNG_IMPL": jax.config.jax_default_prng_impl,
        "JAX_THREEFRY_PARTITIONABLE": jax.config.jax_threefry_partitionable,
    }
    return settings | flags(os.environ)


def flags(variables):
    """The flags that change what is computed: {"VARIABLE --name": value}; the last one counts."""
    found = {}
    for variable in _NAMES_OF_FLAGS:
        for word in variables.get(variable, "").split():
            name, _, value = word.partition("=")
            if not _WITHOUT_EFFECT.match(name):
                found[f"{variable} {name}"] = value
    return found


def code_digest(package):
    """A digest of the files of the library and of the pipeline beside it, with or without git."""
    digest = hashlib.sha256()
    for folder in (package, package.parent / "input_pipeline"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".safetensors"):
                name = path.relative_to(package.parent).as_posix()
                digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


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
