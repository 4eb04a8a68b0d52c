"""A command imports only what it uses, so that it refuses wrong input within about a second."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import liver
from tests import commands

LEARNING = {"jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "array_record"}
OTHERS = {"SimpleITK", "matplotlib", "pymedphys", "tensorboardX", "jinja2", "fsspec", "pandas"}


def _start(*arguments):
    """Runs a new Python. -> (names it imported, exit code, the rest of stderr, CPU seconds)."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=commands.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = process.stderr.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    imports = [line for line in lines if line.startswith("import time:")]
    others = [line for line in lines if line not in imports]
    names = {line.rpartition("|")[2].strip() for line in imports}
    return names, process.returncode, "\n".join(others), usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def seconds_of_jax():
    """CPU seconds of a process that imports JAX, as a measure of this machine's speed."""
    names, code, _, seconds = _start("-c", "import jax")
    assert code == 0 and "jax" in names
    return seconds


@pytest.fixture
def untrained(tmp_path):
    """The workdir of a run without a checkpoint yet, and an input file for it."""
    (tmp_path / "config.json").write_text(liver.get_config().to_json(), encoding="utf-8")
    (tmp_path / "ct.nii").touch()
    return tmp_path


def _check_refusal(started, seconds_of_jax, message):
    names, code, error, seconds = started
    assert code == 1 and message in commands.error_line(error)
    assert not names & (LEARNING | OTHERS | {"scipy.stats", "scipy.ndimage"})
    assert seconds < 2 * seconds_of_jax


def test_predict_refuses_early(untrained, seconds_of_jax):
    """All flags fit and the input exists: only the checkpoint is missing."""
    flags = [f"--input={untrained / 'ct.nii'}", f"--output={untrained / 'out'}"]
    started = _start("-m", "launch.predict", f"--workdir={untrained}", *flags)
    _check_refusal(started, seconds_of_jax, "checkpoints does not exist: train first")


def test_evaluate_refuses_early(untrained, seconds_of_jax):
    started = _start("-m", "launch.evaluate", f"--workdir={untrained}")
    _check_refusal(started, seconds_of_jax, "checkpoints does not exist: train first")


def test_compare_refuses_early(tmp_path, seconds_of_jax):
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / "a.png")
    folders = [f"--{name}={tmp_path / name}" for name in ("predictions", "references")]
    started = _start("-m", "launch.compare", *folders, "--regions=liver")
    _check_refusal(started, seconds_of_jax, "regions=liver: 'liver' is not a new name")


def test_prediction_does_without_tensorflow():
    """It also does without modules that few runs need, until they need them."""
    names, code, error, _ = _start("-c", "import jax_pix2pix.inference.folders")
    assert code == 0, error
    assert {"jax", "jax_pix2pix.inference.folders"} <= names
    assert not names & (OTHERS | {"tensorflow", "tensorflow_datasets", "array_record"})


def test_the_library_itself_imports_nothing():
    names, code, _, _ = _start("-c", "import jax_pix2pix")
    assert code == 0 and "jax_pix2pix" in names
    assert not names & (LEARNING | OTHERS | {"numpy", "scipy"})


@pytest.mark.slow
def test_training_begins_without_what_comes_later():
    names, code, error, _ = _start("-c", "import launch.train")
    assert code == 0, error
    assert {"jax", "tensorflow", "launch.train"} <= names
    assert not names & OTHERS
