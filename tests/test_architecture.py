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
    "adversarial": {"task"},
    "systems": {
        "systems", "adversarial", "diff_augment", "errors", "gradient_penalties", "intensity",
        "losses", "models", "optimizer", "segmentation", "segmenter", "synthesis", "task",
    },
}  # fmt: skip
# What training is: step, loop, models, losses, systems, pipeline, configs. Where arrays live, how
# results are judged, which form of an operation is the fastest and what no config has turned on
# unless it says so can be read when it is needed.
READ_BY_A_NEWCOMER = (
    "jax_pix2pix/adversarial.py",
    "jax_pix2pix/fit.py",
    "jax_pix2pix/losses/terms.py",
    "jax_pix2pix/metrics/ssim.py",
    "jax_pix2pix/optimizer.py",
    "jax_pix2pix/intensity.py",
    "jax_pix2pix/models",
    "jax_pix2pix/systems",
    "input_pipeline/order.py",
    "input_pipeline/augment.py",
    "input_pipeline/example_slices.py",
    "input_pipeline/pipeline.py",
    "configs",
    "launch/train.py",
)
SKIPPED = (
    "jax_pix2pix/models/attention.py",
    "jax_pix2pix/models/convolution_maps.py",
    "jax_pix2pix/models/instance_norm.py",
)
# What the pyramid alone has, on top of that: the outer loop and the networks of a scale.
PYRAMID = (
    "jax_pix2pix/pyramid.py",
    "jax_pix2pix/models/pyramid.py",
    "jax_pix2pix/models/scale_net.py",
    "jax_pix2pix/systems/ct_pyramid.py",
    "configs/ct_pyramid_2d.py",
    "configs/ct_pyramid_3d.py",
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
room = importlib.import_module(sys.argv[1])
if sys.argv[1] == "jax_pix2pix":
    for module in pkgutil.walk_packages(room.__path__, "jax_pix2pix."):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "room", ["jax_pix2pix", "launch.compare", "launch.compile", "launch.predict_run"]
)
def test_library_and_commands_run_without_tensorflow(room):
    arguments = [sys.executable, "-c", WITHOUT_TENSORFLOW, room]
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
# What opens files of unknown origin, and who may, having looked at what they claim first. All below
# a dotted name are meant. Scripts that make the samples read packages whose digests they know.
SAMPLES = "input_pipeline/samples/"
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
    "SimpleITK.ImageFileReader": {"jax_pix2pix/imaging/formats/dicom.py"},
    "SimpleITK.ImageSeriesReader": {"jax_pix2pix/imaging/formats/dicom.py"},
    "gzip.open": set(),
    "gzip.decompress": set(),
    "gzip.GzipFile": {"jax_pix2pix/imaging/formats/nifti.py"},
    "zlib.decompress": set(),
    "zlib.decompressobj": {"jax_pix2pix/imaging/formats/text_header.py"},
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
        "input_pipeline/records.py",
        "launch/benchmark/input.py",
    },
}


def _names(tree):
    """(node, dotted name) of what a file uses of modules, by their full names."""
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
        for name in names.values():  # tests write some, which must be refused
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
