"""Imports point one way, and the library runs where TensorFlow is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"jax_pix2pix", "input_pipeline", "configs", "launch", "tests"}
# The three floors: imports run down only.
MAY_IMPORT = {
    "jax_pix2pix": {"jax_pix2pix"},
    "input_pipeline": {"input_pipeline", "jax_pix2pix"},
    "configs": {"configs"},
    "launch": {"launch", "input_pipeline", "jax_pix2pix"},
}
# Inside the library: which part may import which.
LIBRARY = {
    "models": {"models", "errors"},
    "metrics": {"metrics", "errors", "imaging", "intensity", "safety"},
    "imaging": {"imaging", "errors", "logs", "safety"},
    "adversarial": {"accumulation", "augmentation", "tasks"},
    "augmentation": {"errors"},
    "tasks": {"tasks", "errors", "imaging", "metrics", "models"},
    "losses": {
        "losses", "config_fields", "errors", "intensity", "metrics", "models", "safety", "tasks",
    },
    "safety": {"safety", "errors"},
    "systems": {
        "systems", "adversarial", "augmentation", "errors", "intensity", "losses", "models",
        "optimizer", "tasks",
    },
    "inference": {
        "inference", "adversarial", "errors", "imaging", "intensity", "logs", "metrics", "models",
        "runs", "safety", "tasks",
    },
}  # fmt: skip
# The core of training: step, loop, models, losses, pipeline, and one system with its config.
# Sharding, evaluation, faster forms of operations and parts that are off by default can be read
# when they are needed.
READ_BY_A_NEWCOMER = (
    "jax_pix2pix/adversarial.py",
    "jax_pix2pix/train.py",
    "jax_pix2pix/fit.py",
    "jax_pix2pix/start.py",
    "jax_pix2pix/losses/terms.py",
    "jax_pix2pix/metrics/ssim.py",
    "jax_pix2pix/optimizer.py",
    "jax_pix2pix/intensity.py",
    "jax_pix2pix/models",
    "jax_pix2pix/systems/__init__.py",
    "jax_pix2pix/systems/pix2pix.py",
    "jax_pix2pix/systems/lidc_mask2ct.py",
    "input_pipeline/dataset.py",
    "input_pipeline/order.py",
    "input_pipeline/augment.py",
    "input_pipeline/example_slices.py",
    "input_pipeline/pipeline.py",
    "configs/base.py",
    "configs/lidc_mask2ct.py",
    "launch/train.py",
)
SKIPPED = (
    "jax_pix2pix/models/attention.py",
    "jax_pix2pix/models/convolution_maps.py",
    "jax_pix2pix/models/instance_norm.py",
)
# The parts that only the pyramid has: the outer loop and the networks of a scale.
PYRAMID = (
    "jax_pix2pix/pyramid.py",
    "jax_pix2pix/models/pyramid.py",
    "jax_pix2pix/models/scale_net.py",
    "jax_pix2pix/systems/ct_pyramid.py",
    "jax_pix2pix/tasks/memorisation.py",
    "configs/ct_pyramid_2d.py",
    "configs/ct_pyramid_3d.py",
)


# What works in folders that others may have made: workdirs, prepared data, results.
SHARED = (
    "jax_pix2pix/evaluation", "jax_pix2pix/inference", "jax_pix2pix/logs", "jax_pix2pix/losses",
    "jax_pix2pix/runs", "jax_pix2pix/fit.py", "jax_pix2pix/pyramid.py", "jax_pix2pix/train.py",
    "input_pipeline/datasets", "input_pipeline/preparation", "input_pipeline/dataset.py",
    "input_pipeline/pipeline.py", "input_pipeline/prepare.py", "input_pipeline/prepared.py",
    "input_pipeline/prepared_files.py", "input_pipeline/records.py", "input_pipeline/shards.py",
    "input_pipeline/streamed.py",
)  # fmt: skip
BY_NAME = {"copyfile", "mkdtemp", "mkstemp", "savefig", "touch", "write_bytes", "write_text"}
# Makes a folder of a random name in the cache, which is its user's alone.
MAY_OPEN = {"jax_pix2pix/runs/stores/mirror.py"}
# These make an image from an array and open no file.
NOTHING_OPENED = {"jax_pix2pix/inference/prediction.py"}
SAMPLES = "input_pipeline/samples/"


def _imports(path):
    """Yields the dotted names that a file imports, also inside functions."""
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
        if not _relative(path).startswith(("jax_pix2pix/imaging/", SAMPLES)):
            medical = foreign & {"SimpleITK", "nibabel", "pydicom"}
            assert not medical or _relative(path) in NOTHING_OPENED, path
        if room == "configs":
            assert foreign <= {"ml_collections", "configs"}, path


@pytest.mark.parametrize("part", LIBRARY)
def test_library_imports_one_way(part):
    folder = ROOT / "jax_pix2pix" / part
    paths = _files(folder) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in paths:
        known = {name.split(".")[1] for name in _imports(path) if name.startswith("jax_pix2pix.")}
        assert known <= LIBRARY[part], path


def _writing(path):
    """Yields the lines of a file that open, make or write files otherwise than by safe_files."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            name, of = node.func.id, ""
        elif isinstance(node.func, ast.Attribute):
            name, of = node.func.attr, ast.unparse(node.func.value)
        else:
            continue
        if of != "safe_files" and (name in BY_NAME or (name == "open" and of in ("", "path"))):
            yield f"{_relative(path)}:{node.lineno} {name}"


def test_files_of_shared_folders_are_opened_by_one_module():
    """An `open` elsewhere would follow a link, or wait for a pipe."""
    paths = [path for room in SHARED for path in _files(room) or [ROOT / room]]
    assert all(path.is_file() for path in paths) and len(paths) > 80
    found = [line for path in paths for line in _writing(path)]
    assert not [line for line in found if line.split(":")[0] not in MAY_OPEN]


def test_rooms_of_the_library_know_each_other_in_no_circle():
    """Modules beside the rooms do not count."""
    rooms = {path.name for path in (ROOT / "jax_pix2pix").iterdir() if path.is_dir()}
    known = {}
    for room in rooms - {"__pycache__"}:
        names = (name for path in _files(f"jax_pix2pix/{room}") for name in _imports(path))
        known[room] = {
            name.split(".")[1] for name in names if name.startswith("jax_pix2pix.")
        } & rooms - {room}
    while free := {room for room, others in known.items() if not others & known.keys()}:
        known = {room: others for room, others in known.items() if room not in free}
    assert not known


def test_the_library_reads_no_flags_prints_nothing_and_never_exits():
    """It reports by messages and errors. Only the watchdog of training ends its process."""
    terminal = {"jax_pix2pix/logs/messages.py", "jax_pix2pix/runs/processes/watchdog.py"}
    for path in (*_files("jax_pix2pix"), *_files("input_pipeline")):
        if _relative(path).startswith(SAMPLES):
            continue
        assert "absl.flags" not in set(_imports(path)), path
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("print", "sys.exit", "exit", "os._exit"):
                assert _relative(path) in terminal, (path, call.lineno)


WITHOUT = """
import sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # importing it raises ImportError
import importlib, pkgutil
room = importlib.import_module(sys.argv[1])
if hasattr(room, "__path__"):
    for module in pkgutil.walk_packages(room.__path__, f"{sys.argv[1]}."):
        importlib.import_module(module.name)
"""
TENSORFLOW = "tensorflow,tensorflow_datasets,array_record"


@pytest.mark.parametrize(
    ("room", "without"),
    [
        ("jax_pix2pix", TENSORFLOW),
        ("launch.compare", TENSORFLOW),
        ("launch.compile", TENSORFLOW),
        ("input_pipeline", "jax,flax,optax,orbax"),
    ],
)
def test_runs_without(room, without):
    arguments = [sys.executable, "-c", WITHOUT, room, without]
    subprocess.run(arguments, cwd=ROOT, check=True, timeout=120)


def test_what_a_newcomer_reads_stays_short():
    paths = [
        path
        for name in READ_BY_A_NEWCOMER
        for path in ([ROOT / name] if name.endswith(".py") else _files(name))
    ]
    apart = {ROOT / name for name in (*SKIPPED, *PYRAMID)}
    assert 1000 < _lines(set(paths) - apart) < 3000
    assert 100 < _lines(ROOT / name for name in PYRAMID) < 800


def _lines(paths):
    return sum(len(path.read_text().splitlines()) for path in paths)


PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Functions that open files of unknown origin, and the modules that may use them, which check first
# what a file claims. A dotted name stands for all below it. The scripts that make the samples read
# packages whose digests they know.
OPENERS = {
    "PIL.Image.open": {"jax_pix2pix/imaging/safe_io.py", "launch/benchmark/input_torch.py"},
    "numpy.load": {"launch/benchmark/input_torch.py"},  # what the benchmark wrote
    "numpy.lib.format.read_magic": {"jax_pix2pix/imaging/safe_io.py"},
    "numpy.lib.format.read_array": set(),
    "numpy.lib.format.read_array_header_1_0": {"jax_pix2pix/imaging/safe_io.py"},
    "numpy.lib.format.read_array_header_2_0": {"jax_pix2pix/imaging/safe_io.py"},
    "numpy.lib.format.open_memmap": set(),
    "numpy.fromfile": set(),
    "numpy.memmap": set(),
    "numpy.loadtxt": set(),
    "numpy.genfromtxt": set(),
    "nibabel.load": {SAMPLES},
    "nibabel.loadsave": set(),
    "pydicom": set(),
    "SimpleITK.ReadImage": {SAMPLES},
    "SimpleITK.ImageFileReader": {
        "jax_pix2pix/imaging/formats/dicom.py",
        "jax_pix2pix/imaging/formats/dicom_xray.py",
    },
    "SimpleITK.ImageSeriesReader": set(),
    "gzip.open": set(),
    "gzip.decompress": set(),
    "gzip.GzipFile": {"jax_pix2pix/imaging/formats/nifti.py"},
    "zlib.decompress": set(),
    "zlib.decompressobj": {
        "jax_pix2pix/imaging/formats/dicom_elements.py",
        "jax_pix2pix/imaging/formats/text_header.py",
    },
    "bz2": set(),
    "lzma": set(),
    "safetensors.safe_open": {"jax_pix2pix/losses/tensor_file.py"},
    "safetensors.deserialize": set(),
    "safetensors.numpy.load": set(),
    "safetensors.numpy.load_file": set(),
    "safetensors.torch": set(),
    # TFDS imports the modules that a folder names: prepared_files.py reads it instead.
    "tensorflow_datasets.builder_from_directory": set(),
    "tensorflow_datasets.builder_from_directories": set(),
    "tensorflow_datasets.builder": set(),
    "tensorflow_datasets.load": set(),
    "tensorflow_datasets.core.read_only_builder": set(),
    "array_record.python.array_record_module.ArrayRecordReader": {
        "input_pipeline/preparation/shards.py",
        "input_pipeline/shards.py",
        "launch/benchmark/input.py",
    },
}


def _names(tree):
    """Yields (node, full dotted name) of each use of an imported name in a file."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def dotted(node):
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
            return f"{owner}.{node.attr}"

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node)):
            yield node, name


def _all_files():
    return [path for room in OURS for path in _files(room)]


def _relative(path):
    return path.relative_to(ROOT).as_posix()


def test_no_pickle_is_read():
    for path in _all_files():
        tree = ast.parse(path.read_text())
        in_tests = _relative(path).startswith("tests/")
        imported = {name.split(".")[0] for name in _imports(path)} & PICKLES
        assert not imported or in_tests, path
        names = dict(_names(tree))
        for name in names.values():  # tests write pickles, which must be refused
            module, *rest = name.split(".")
            assert module not in PICKLES or rest in ([], ["dump"], ["dumps"]), (path, name)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            options = {keyword.arg: keyword.value for keyword in call.keywords}
            called = names.get(call.func)
            if "allow_pickle" in options and not (in_tests and called == "numpy.save"):
                assert _is(options["allow_pickle"], False), (path, call.lineno)
            if called == "torch.load":
                assert _is(options.get("weights_only"), True), (path, call.lineno)


def test_files_are_opened_where_their_size_is_looked_at():
    used = {name: set() for name in OPENERS}
    for path in _all_files():
        relative = _relative(path)
        if relative.startswith("tests/"):
            continue
        for _, name in _names(ast.parse(path.read_text())):
            for opener in OPENERS:
                if f"{name}.".startswith(f"{opener}."):
                    used[opener].add(SAMPLES if relative.startswith(SAMPLES) else relative)
    assert used == OPENERS


def test_nothing_is_decompressed_without_a_limit():
    found = 0
    for path in _all_files():
        if _relative(path).startswith("tests/"):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".decompress"):
                found += 1
                assert len(call.args) == 2, (path, call.lineno)
    assert found


def _is(node, value):
    return isinstance(node, ast.Constant) and node.value is value
