"""Runs the project's commands as a user does, in processes of their own."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests import forking

ROOT = Path(__file__).parents[1]

# For XLA_FLAGS: makes code that runs more slowly and compiles several times faster.
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
# For runs of launch.submit, whose files say how many devices there are.
SUBMITTED = {"JAX_ENABLE_X64": "1", "XLA_FLAGS": UNOPTIMISED}


def start(module, *arguments, **options):
    """Starts python -m module arguments..., with the options of `python`. -> Popen."""
    return python("-m", module, *arguments, **options)


def python(
    *words,
    devices=1,
    float64=False,
    variables=None,
    umask=-1,
    folder=ROOT,
    with_torch=False,
):
    """Starts python -m MODULE or -c PROGRAM, with arguments, on so many CPU devices. -> Popen.

    Args:
        variables: environment variables beside this process's own.
        umask: -1 keeps this process's.
        folder: where to start; by default the repository's root.
        with_torch: whether PyTorch can be imported, as benchmarks do.

    A process that has imported the modules of commands forks this one (`tests/forking.py`). With
    PyTorch, or with variables that are read while Python starts, a new Python is started.
    """
    flags = f"--xla_force_host_platform_device_count={devices} {UNOPTIMISED}"
    variables = {"XLA_FLAGS": flags} | (variables or {})
    if float64:
        variables["JAX_ENABLE_X64"] = "1"
    options = {
        "cwd": folder,
        "env": _environment(variables, with_torch),
        "umask": umask,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    fork = sys.platform == "linux" and not with_torch
    if fork and _server().serves(options["env"]):
        return forking.Forked(_server(), words, **options)
    return subprocess.Popen([sys.executable, *words], **options)


@functools.cache
def _server():
    """The process that forks for all tests of a worker."""
    return forking.Server(ROOT, _environment({}))


def _environment(variables, with_torch=False):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    if not with_torch:
        paths = [str(ROOT / "tests/without_torch"), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def finish(process, code=0, timeout=600):
    """Waits for a started command and checks its exit code. -> (stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def run(module, *arguments, code=0, **options):
    return finish(start(module, *arguments, **options), code)


def submit(calls, variables=None, folder=ROOT):
    """Calls launch.submit with each list of arguments. -> [(exit code, stdout, stderr)]."""
    results = []
    for arguments in calls:
        process = start("launch.submit", *arguments, variables=variables, folder=folder)
        out, err = process.communicate(timeout=600)
        results.append((process.returncode, out, err))
    return results


def error_line(stderr):
    """The one line that a refused command prints, apart from progress bars."""
    lines = [line for line in stderr.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


# Each system on its sample: small images, some 10 steps per epoch.
TINY = {
    "lidc_mask2ct": {  # 142 training images
        "data.batch_size": 14,
        "data.image_size": 32,
        "generator.depth": 3,
    },
    "xray_lungs": {  # 42
        "data.batch_size": 4,
        "data.image_size": 32,
        "data.load_size": 36,
        "generator.depth": 5,
    },
    "liver": {"data.batch_size": 3, "data.image_size": 32, "data.load_size": 36},  # some 35
    "liver_3d": {
        "data.batch_size": 2,
        "data.image_size": 32,
        "data.load_size": 36,
        "data.patch_size": 16,
    },  # some 13
    "mri2ct": {"data.batch_size": 5, "data.image_size": 32, "ema_decay": 0.9},  # 59
    "mri2ct_3d": {
        "data.batch_size": 5,
        "data.image_size": 32,
        "data.depth": 16,
        "data.patch_size": 32,
    },  # 45
}


def tiny_training(workdir, data_dir, system="lidc_mask2ct", **overrides):
    """Arguments of launch.train for a tiny system that logs every step."""
    fields = {
        "data.data_dir": data_dir,
        "generator.width": 4,
        "discriminator.width": 4,
        "epochs": 2,
        "constant_epochs": 1,
        "log_every_steps": 1,
        "text_log_every_epochs": 1,
        "sample_every_epochs": 2,
        "checkpoint_every_epochs": 1,
        **TINY[system],
        **overrides,
    }
    return [
        f"--config=configs/{system}.py:quickstart",
        f"--workdir={workdir}",
        *[f"--config.{name}={value}" for name, value in fields.items()],
    ]


def metrics(workdir, split="train"):
    """A split's lines of metrics.jsonl, without the fields that differ between equal runs."""
    lines = [
        json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    ]
    for line in lines:
        line.pop("time")
        line.pop("images_per_second", None)
        line.pop("input_wait", None)
    return [line for line in lines if line["split"] == split]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
