"""Imports point one way, and the library runs where TensorFlow is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"jax_pix2pix", "input_pipeline", "configs", "launch", "tests"}
MAY_IMPORT = {
    "jax_pix2pix": {"jax_pix2pix"},
    "input_pipeline": {"input_pipeline"},
    "configs": {"configs"},
    "launch": {"launch", "jax_pix2pix", "input_pipeline"},
}
# Inside the library: who may know whom.
LIBRARY = {
    "models": {"models", "errors"},
    "adversarial": set(),
    "systems": {
        "systems", "adversarial", "errors", "intensity", "losses", "metrics", "models",
        "optimizer", "ssim",
    },
}  # fmt: skip
# What training is: step, loop, models, losses, systems, pipeline, configs.
READ_BY_A_NEWCOMER = (
    "jax_pix2pix/adversarial.py",
    "jax_pix2pix/fit.py",
    "jax_pix2pix/losses.py",
    "jax_pix2pix/metrics.py",
    "jax_pix2pix/ssim.py",
    "jax_pix2pix/optimizer.py",
    "jax_pix2pix/intensity.py",
    "jax_pix2pix/sharding.py",
    "jax_pix2pix/models",
    "jax_pix2pix/systems",
    "input_pipeline/order.py",
    "input_pipeline/augment.py",
    "input_pipeline/pipeline.py",
    "configs",
    "launch/train.py",
)


def _imports(path):
    """Dotted names that a file imports, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_one_way(room):
    assert _files(room)
    for path in _files(room):
        ours = {name.split(".")[0] for name in _imports(path)} & OURS
        assert ours <= MAY_IMPORT[room], path
        foreign = {name.split(".")[0] for name in _imports(path)}
        if room == "jax_pix2pix":
            assert not foreign & {"tensorflow", "tensorflow_datasets", "array_record"}, path
        if room == "input_pipeline":
            assert not foreign & {"jax", "flax"}, path
        if room == "configs":
            assert foreign <= {"ml_collections", "configs"}, path


@pytest.mark.parametrize("part", LIBRARY)
def test_library_imports_one_way(part):
    folder = ROOT / "jax_pix2pix" / part
    paths = _files(folder) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in paths:
        known = {name.split(".")[1] for name in _imports(path) if name.startswith("jax_pix2pix.")}
        assert known <= LIBRARY[part], path


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "array_record"):
    sys.modules[name] = None  # importing it raises ImportError
import importlib, pkgutil
import jax_pix2pix, launch.predict
import input_pipeline.planes, input_pipeline.raw.dicom, input_pipeline.raw.nifti
for module in pkgutil.walk_packages(jax_pix2pix.__path__, "jax_pix2pix."):
    importlib.import_module(module.name)
"""


def test_library_and_predict_run_without_tensorflow():
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW], cwd=ROOT, check=True, timeout=120)


def test_what_a_newcomer_reads_stays_short():
    paths = [
        path
        for name in READ_BY_A_NEWCOMER
        for path in ([ROOT / name] if name.endswith(".py") else _files(name))
    ]
    assert 1000 < sum(len(path.read_text().splitlines()) for path in paths) < 3000


def test_no_pickle_is_read():
    for room in MAY_IMPORT:
        for path in _files(room):
            assert not {name.split(".")[0] for name in _imports(path)} & {"pickle", "joblib"}, path
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    assert node.value.value is False, path
