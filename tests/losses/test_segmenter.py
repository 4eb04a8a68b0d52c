"""Segmenters as files against the same U-Net in torch.nn.functional, and the loss with them."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from configs import lidc_mask2ct, liver_3d, xray_lungs
from configs.lung_segmenter import get_config
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses import segmenter
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.runs.workdir import load_run
from launch.export_segmenter import export
from tests import commands, untrained

SIZE = (8, 16, 16)
WINDOW_HU = (-1000, 400)


def _config(**fields):
    config = get_config()
    config.data.depth, config.data.image_size, config.data.load_size = SIZE[0], SIZE[1], 0
    config.generator.width, config.generator.depth = 2, 2
    config.update_from_flattened_dict(fields)
    return config


def _exported(folder, **fields):
    """-> (workdir, file)."""
    workdir = str(untrained.save(folder / "run", _config(**fields)))
    path = str(folder / "weights" / "segmenter.safetensors")
    export(workdir, path)
    return workdir, path


@pytest.fixture(scope="module")
def workdir_and_path(tmp_path_factory):
    return _exported(tmp_path_factory.mktemp("instance"))


@pytest.fixture(scope="module")
def workdir(workdir_and_path):
    return workdir_and_path[0]


@pytest.fixture(scope="module")
def exported(workdir_and_path):
    return workdir_and_path[1]


@pytest.fixture(scope="module")
def batch_normed(tmp_path_factory):
    return _exported(tmp_path_factory.mktemp("batch"), **{"generator.norm": "batch"})[1]


def _metadata(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata()


def _changed(path, folder, arrays=None, metadata=None):
    """A copy with other arrays or metadata; None removes one. -> its path."""
    everything = safetensors.numpy.load_file(path) | (arrays or {})
    about = _metadata(path) | (metadata or {})
    copy = str(folder / "changed.safetensors")
    safetensors.numpy.save_file(
        {name: value for name, value in everything.items() if value is not None},
        copy,
        {name: text for name, text in about.items() if text is not None},
    )
    return copy


def _theirs(path, hu):
    """Probabilities of a file's network with two halvings, float64 tensor [n, 1, d, h, w]."""
    arrays = {name: x.double() for name, x in safetensors.torch.load_file(path).items()}

    def layer(name, x, convolve, order):
        kernel = arrays[f"params/{name}/kernel"]
        return convolve(x, kernel.permute(*order), arrays[f"params/{name}/bias"], 2, 1)

    def norm(name, x):
        if f"params/{name}/BatchNorm_0/scale" not in arrays:
            return F.instance_norm(x)
        mean, var = (arrays[f"batch_stats/{name}/BatchNorm_0/{kind}"] for kind in ("mean", "var"))
        scale, bias = (arrays[f"params/{name}/BatchNorm_0/{kind}"] for kind in ("scale", "bias"))
        return F.batch_norm(x, mean, var, scale, bias)

    down, up = (F.conv3d, (4, 3, 0, 1, 2)), (F.conv_transpose3d, (3, 4, 0, 1, 2))
    low, high = json.loads(_metadata(path)["source_range"])
    x = (2 * (hu.clamp(low, high) - low) / (high - low)) - 1
    x = F.interpolate(x, SIZE, mode="trilinear", align_corners=True)
    first = F.leaky_relu(layer("encode_0", x, *down), 0.2)
    second = F.leaky_relu(norm("encode_norm_1", layer("encode_1", first, *down)), 0.2)
    back = F.relu(norm("decode_norm_1", layer("decode_1", second, *up)))
    logits = layer("decode_0", torch.cat([back, first], 1), *up)
    return (torch.tanh(logits) + 1) / 2


@pytest.mark.parametrize("file", ["exported", "batch_normed"])
def test_probabilities_are_pytorchs(float64, request, file):
    path = request.getfixturevalue(file)
    hu = np.random.default_rng(0).uniform(-1500, 1500, (2, 10, 20, 24, 1))
    ours = jax.jit(segmenter.load(path))(jnp.asarray(hu))
    theirs = _theirs(path, torch.tensor(hu).movedim(-1, 1)).movedim(1, -1)
    assert ours.shape == (2, *SIZE, 1) and ours.dtype == jnp.float64
    assert np.ptp(ours) > 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_distance_and_its_gradient_are_pytorchs(float64, exported):
    fake, target = np.random.default_rng(0).uniform(-1, 1, (2, 1, 6, 20, 12, 1))
    distance = segmenter.segmentation_distance(exported, WINDOW_HU)
    value, gradient = jax.jit(jax.value_and_grad(distance))(fake, target)

    def hu(x):
        return (x.movedim(-1, 1) + 1) / 2 * (WINDOW_HU[1] - WINDOW_HU[0]) + WINDOW_HU[0]

    their_fake = torch.tensor(fake, requires_grad=True)
    expected = F.mse_loss(
        _theirs(exported, hu(their_fake)), _theirs(exported, hu(torch.tensor(target)))
    )
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-10)
    np.testing.assert_allclose(gradient, their_fake.grad, atol=1e-12)
    assert np.abs(gradient).max() > 1e-6


def test_equal_volumes_have_no_distance(exported):
    volume = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 5, 9, 9, 1)), jnp.float32)
    distance = jax.jit(segmenter.segmentation_distance(exported, WINDOW_HU))(volume, volume)
    assert distance == 0 and distance.dtype == jnp.float32


def test_the_file_gives_the_runs_probabilities(workdir, exported):
    """They agree at the run's size, up to the rounding of weights to float16."""
    config, system, generator, _ = load_run(workdir, "best")
    stored = np.random.default_rng(0).integers(-1200, 1200, (2, *SIZE, 1), np.int16)

    @jax.jit
    def probabilities(stored):
        batch = {"source": stored, "target": jnp.zeros_like(stored, jnp.uint8)}
        return system.task.probabilities(generate(system, generator, system.normalise(batch)[0]))

    found = jax.jit(segmenter.load(exported))(jnp.asarray(stored, jnp.float32))
    expected = probabilities(stored)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(found - expected).mean() < 2e-3
    assert tuple(config.data.source_range) == (-1000, 1000)


def _embedded_sample(kind):
    """The volume of the sample that the embedded segmenter did not see: [1, d, h, w, 1]."""
    path = commands.ROOT / "input_pipeline" / "samples" / "chest_volumes" / kind / "TS-CTA-0001.mhd"
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return jnp.asarray(values, jnp.float32)[None, ..., None]


def test_the_embedded_segmenter_finds_the_lungs_of_another_patient():
    assert Path(segmenter.EMBEDDED).stat().st_size <= 300_000
    found = jax.jit(segmenter.load(""))(_embedded_sample("subset0")) > 0.5
    lungs = resize_linear(_embedded_sample("seg-lungs-LUNA16"), found.shape[1:-1]) > 0.5
    dice = 2 * (found & lungs).sum() / (found.sum() + lungs.sum())
    assert dice > 0.85


def test_the_embedded_segmenter_leads_from_an_empty_volume_to_lungs():
    """An empty volume, all soft tissue, is where a generator begins."""
    target = _embedded_sample("subset0") / 1000
    distance = jax.jit(jax.value_and_grad(segmenter.segmentation_distance("", (-1000, 1000))))
    start, gradient = distance(jnp.zeros_like(target), target)
    assert start > 0.05 and np.abs(gradient).max() > 0
    lungs = _embedded_sample("seg-lungs-LUNA16") > 0
    end, _ = distance(jnp.where(lungs, target, 0.0), target)
    assert end < 0.5 * start


def test_averaged_weights_are_exported(tmp_path):
    workdir = untrained.save(tmp_path / "run", _config(ema_decay=0.9))
    export(str(workdir), str(tmp_path / "x.safetensors"))
    arrays = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    _, _, generator, _ = load_run(str(workdir), "best")
    assert not np.allclose(generator.params["encode_0"]["kernel"], 0)
    np.testing.assert_array_equal(
        arrays["params/encode_0/kernel"], np.float16(generator.average["encode_0"]["kernel"])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_other_floats_are_read(exported, tmp_path, dtype):
    arrays = safetensors.numpy.load_file(exported)
    path = _changed(exported, tmp_path, {name: x.astype(dtype) for name, x in arrays.items()})
    hu = jnp.zeros((1, *SIZE, 1))
    tolerance = 0.05 if dtype == jnp.bfloat16 else 0
    ours, expected = (jax.jit(segmenter.load(file))(hu) for file in (path, exported))
    np.testing.assert_allclose(ours, expected, atol=tolerance)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "text", "cut"])
def test_a_file_that_is_not_safetensors_is_named_in_one_line(exported, tmp_path, kind):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "cut":
        with open(exported, "rb") as file:
            path.write_bytes(file.read()[:-10])
    with pytest.raises(ConfigError, match="cannot be read as safetensors") as caught:
        segmenter.load(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


KERNEL = "params/encode_1/kernel"


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({KERNEL: None}, {}, f"lacks {KERNEL}"),
        ({"params/extra": np.zeros(1)}, {}, "more than its network: params/extra"),
        ({KERNEL: np.zeros((4, 4, 2, 4))}, {}, rf"{KERNEL} as float64 \[4, 4, 2, 4\], not as"),
        ({KERNEL: np.zeros((4, 4, 4, 2, 4), int)}, {}, f"{KERNEL} as int64"),
        ({KERNEL: np.full((4, 4, 4, 2, 4), np.nan)}, {}, f"{KERNEL} with values that are not"),
        ({}, {"format": None}, "is no segmenter: use a file of launch.export_segmenter"),
        ({}, {"version": "2"}, "has version 2, and 1 is read here"),
        ({}, {"size": None}, "damaged metadata"),
        ({}, {"size": "[8, 16"}, "damaged metadata"),
        ({}, {"size": "[16, 16]"}, r"has size \[16, 16\]"),
        ({}, {"size": "[8, 16, 4096]"}, r"has size \[8, 16, 4096\]"),
        ({}, {"size": "[8, 16, 18]"}, "describes no network"),
        ({}, {"size": "[1024, 1024, 1024]"}, r"has size \[1024, 1024, 1024\] and width 2"),
        ({}, {"size": "[8, 16, true]"}, r"has size \[8, 16, True\]"),
        ({}, {"size": "{}"}, "has size {}"),
        ({}, {"source_range": "[400, -1000]"}, r"source_range=\[400, -1000\]: use two numbers"),
        ({}, {"source_range": "[" * 4000}, "damaged metadata"),
        ({}, {"generator": "[" + "[]," * 2000 + "1]"}, "above the limit of 4096 characters"),
        ({}, {"generator": "[1]"}, "damaged metadata"),
        ({}, {"generator": '{"depth": 1000}'}, "depth=1000: use at most 13"),
        ({}, {"generator": '{"norm": [1]}'}, r"norm=\[1\]: use a text"),
        ({}, {"generator": '{"dropout": "x"}'}, "dropout='x': use a share"),
        ({}, {"generator": '{"use_bias": 2}'}, "use_bias=2: use true or false"),
        ({}, {"source_range": "[NaN, 400]"}, "source_range"),
        ({}, {"generator": '{"widht": 2}'}, "damaged metadata"),
        ({}, {"generator": '{"width": 4, "depth": 2}'}, "holds params/"),
        ({}, {"generator": '{"width": 100000}'}, "width=100000: use at most 16384"),
    ],
)
def test_what_is_wrong_with_a_segmenter_is_one_line(exported, tmp_path, arrays, metadata, message):
    path = _changed(exported, tmp_path, arrays, metadata)
    with pytest.raises(ConfigError, match=message) as caught:
        segmenter.load(path)
    assert "\n" not in str(caught.value) and "changed.safetensors" in str(caught.value)
    assert str(caught.value).startswith("config.loss.segmentation_weights_file: ")


@pytest.mark.parametrize(
    ("module", "message"),
    [(lidc_mask2ct, "makes no masks"), (liver_3d, "no U-Net"), (xray_lungs, "no blocks of slices")],
)
def test_another_run_is_no_segmenter(tmp_path, module, message):
    config = module.get_config("quickstart")
    config.generator.width = config.discriminator.width = 2
    workdir = untrained.save(tmp_path / "run", config)
    output = tmp_path / "x.safetensors"
    with pytest.raises(ConfigError, match=f"{config.system} is no segmenter, .*{message}"):
        export(str(workdir), str(output))
    assert not output.exists()


def test_a_link_of_the_users_own_stays_and_leads_to_the_file(workdir, tmp_path):
    path = tmp_path / "x.safetensors"
    for name in (path, f"{path}.tmp"):
        os.symlink(tmp_path / "elsewhere", name)
    export(workdir, str(path))
    assert path.is_symlink() and (tmp_path / "elsewhere").is_file()


def test_weights_beyond_float16_are_refused(workdir, tmp_path):
    config, system, generator, _ = load_run(workdir, "best")
    huge = jax.tree.map(lambda x: x + 1e6, generator.params)
    path = tmp_path / "x.safetensors"
    with pytest.raises(ConfigError, match="does not fit into float16"):
        segmenter.save(str(path), config, system, generator.replace(params=huge))
    assert not path.exists()


def test_the_command_prints_where_the_file_is(workdir, tmp_path):
    path = tmp_path / "x.safetensors"
    arguments = (f"--workdir={workdir}", f"--output={path}")
    out, _ = commands.run("launch.export_segmenter", *arguments, variables=untrained.QUIET)
    assert f"step {untrained.STEP} of {workdir}: {path}, {path.stat().st_size:,} bytes" in out
    _, err = commands.run(
        "launch.export_segmenter", f"--workdir={workdir}", "--output=x.pt", code=1
    )
    assert "use a name that ends in .safetensors" in commands.error_line(err)


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(segmenter.MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=f"has {segmenter.MAX_BYTES + 1} bytes, above the limit"):
        segmenter.load(str(path))
