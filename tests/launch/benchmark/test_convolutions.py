"""launch.benchmark.convolutions: the forms it finds, the meaning of its figures, refusals."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_pix2pix.errors import BenchmarkError
from jax_pix2pix.models import convolution_maps as maps
from launch.benchmark import convolutions, convolutions_jax
from launch.benchmark.convolutions_jax import OPERANDS, Layer
from tests import commands
from tests.tiny import tiny_config

TINY = {
    "data.image_size": 16,
    "generator.depth": 2,
    "generator.width": 4,
    "discriminator.width": 4,
    "discriminator.strided_levels": 1,
}
ARGUMENTS = [
    "--batch_sizes=2",
    "--volume=4,6,8",
    "--seconds=0",
    *[f"--config.{name}={value}" for name, value in TINY.items()],
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    output = tmp_path_factory.mktemp("convolutions") / "out" / "table.json"
    arguments = [*ARGUMENTS, f"--output={output}"]
    out, _ = commands.run("launch.benchmark.convolutions", *arguments, with_torch=True)
    return out, json.loads(output.read_text())


def test_layers_are_those_that_the_networks_call():
    found = {layer.name: layer for layer in convolutions_jax.layers(tiny_config())}
    k4 = (4, 2, 1)
    # Layers of two networks with the same numbers are measured once.
    assert found["encode_1, level_1"] == Layer(
        "encode_1, level_1", maps.Geometry(*k4, (64, 64), False), 8, 4
    )
    assert found["decode_0"] == Layer("decode_0", maps.Geometry(*k4, (128, 128), True), 8, 1)
    assert found["logits"] == Layer("logits", maps.Geometry(4, 1, 1, (15, 15), False), 1, 32)
    assert sum(len(name.split(", ")) for name in found) == 12 + 5


@pytest.mark.slow
@pytest.mark.long
def test_record_and_table(measured):
    out, record = measured
    names = [(layer["name"], layer["batch_size"]) for layer in record["layers"]]
    assert names[:2] == [("encode_0", 2), ("encode_1", 2)] and names[-2:] == [("3D", 1)] * 2
    first = record["layers"][0]
    # 16 -> 8 pixels: 4 x 8 taps per side, without the two in the padding, for 1 x 4 channels.
    assert first["flops"] == 2 * 2 * 30**2 * 4
    for layer in record["layers"]:
        assert set(layer["maps"]) == set(OPERANDS)
        for figures in layer["maps"].values():
            medians = {name: x["median"] for name, x in figures["seconds"].items()}
            theirs = {medians.pop("torch contiguous"), medians.pop("torch channels_last")}
            choice = medians[figures["choice"]]
            assert figures["torch_over_choice"] == pytest.approx(min(theirs) / choice)
            assert medians[figures["fastest"]] == min(medians.values())
            rate = figures["flops_per_second"][figures["choice"]]
            assert rate == pytest.approx(layer["flops"] / choice)
    assert record["command"][:3] == ["python", "-m", "launch.benchmark.convolutions"]
    assert record["versions"]["jax"] == jax.__version__ and "torch" in record["versions"]
    assert record["config"]["generator"]["width"] == 4
    assert 1e9 < record["matmul_flops_per_second"] < 1e15
    assert "encode_0: batch 2, 16x16x1 -> 8x8x4, k4 s2 p1" in out
    assert "decode_0: batch 2, 8x8x8 -> 16x16x1 transposed" in out


@pytest.mark.slow
@pytest.mark.long
def test_the_3d_step_takes_turns(measured):
    out, record = measured
    step = record["volume_step"]
    medians = step["round_medians"]
    ratios = [b / a for a, b in zip(medians["jax"], medians["torch"], strict=True)]
    assert len(ratios) == convolutions.ROUNDS
    assert step["ratio"]["median"] == pytest.approx(np.median(ratios))
    assert set(step["torch_trial_seconds"]) == {"contiguous", "channels_last"}
    assert step["size"] == [4, 6, 8]
    assert "volume of 4x6x8" in out and f"PyTorch / JAX {step['ratio']['median']:.2f}" in out


def _forms(operation, g, platform="cpu"):
    operands = Layer("", g, 4, 3).operands(2)
    given = [operands[name] for name in OPERANDS[operation]]
    forms, choice, _ = convolutions_jax.applicable(operation, g, platform, given)
    return set(forms), choice


def test_forms_that_do_not_apply_are_left_out():
    halving = maps.Geometry(4, 2, 1, (8, 8), False)
    forms, choice = _forms("scatter", halving)
    assert {"native", "shifts", "subpixel"} <= forms and choice == "shifts"
    assert "reversed" not in forms  # for stride 1 only
    dense = maps.Geometry(4, 1, 1, (8, 8), False)
    forms, choice = _forms("scatter", dense)
    # With stride 1 "reversed" is the native program here, so it is measured once.
    assert (forms, choice) == ({"native"}, "native")
    forms, choice = _forms("scatter", maps.Geometry(3, 1, 1, (4, 6, 8), False))
    assert forms == {"native", "reversed"} and choice == "reversed"
    assert "planes" not in _forms("convolve", halving)[0]  # for 3D only
    assert "planes" in _forms("convolve", maps.Geometry(3, 1, 1, (4, 6, 8), False))[0]
    assert _forms("scatter", halving, platform="gpu") == ({"native"}, "native")


def test_a_choice_with_another_result_is_an_error(monkeypatch):
    real = maps._scatter_shifts
    monkeypatch.setattr(maps, "_scatter_shifts", lambda *given: 1.1 * real(*given))
    with pytest.raises(BenchmarkError, match="scatter is not the native form's"):
        _forms("scatter", maps.Geometry(4, 2, 1, (8, 8), False))


def test_a_slower_choice_is_marked():
    times = {"torch contiguous": [3.0], "torch channels_last": [1.0], "native": [2.0]}
    figures = convolutions.summarise(times | {"taps": [1.8]}, "native", 10)
    assert figures["torch_over_choice"] == 0.5 and figures["fastest"] == "taps"
    assert not figures["slower_than_another"]
    line = convolutions.row("convolve", figures)
    assert "native*" in line and "!" not in line and "3000" not in line
    figures = convolutions.summarise(times | {"taps": [1.7]}, "native", 10)
    assert figures["slower_than_another"] and "native*!" in convolutions.row("convolve", figures)


@pytest.mark.slow
@pytest.mark.long
def test_without_torch(tmp_path):
    """JAX alone is measured, and the message names the extra to install."""
    output = tmp_path / "table.json"
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        "runpy.run_module('launch.benchmark.convolutions', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", code, *ARGUMENTS, f"--output={output}"]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "PyTorch is left out: run pip install -e '.[peer]'" in done.stdout
    record = json.loads(output.read_text())
    assert "torch" not in record["versions"] and "ratio" not in record["volume_step"]
    assert "torch" not in json.dumps(record["layers"]).replace("torch_over_choice", "")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--volume=32,64", "--volume=32,64: use e.g. 32,64,64"),
        ("--batch_sizes=0", "--batch_sizes=0: use e.g. 8,16"),
        ("--config.data.image_size=18", "does not halve 2 times"),
        ("--config.dtype=float16", "config.dtype='float16': use one of"),
        ("--output=/dev/null/x.json", "/dev/null"),
    ],
)
def test_refusals(flag, message):
    out, err = commands.run("launch.benchmark.convolutions", *ARGUMENTS, flag, code=1)
    assert message in commands.error_line(err)
    assert "encode_0" not in out
