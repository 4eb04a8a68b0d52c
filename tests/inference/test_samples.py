"""Samples of a pyramid from launch.predict, read with SimpleITK."""

import shutil

import jax
import numpy as np
import pytest
import SimpleITK as sitk
from ml_collections import ConfigDict
from PIL import Image

from configs import ct_pyramid_2d, ct_pyramid_3d, liver
from input_pipeline import pipeline, prepared
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.geometry import NOTHING
from jax_pix2pix.inference import samples
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.runs.workdir_files import scale_directory
from launch.predict import predict
from tests import commands, untrained
from tests.input_pipeline.volumes import without_spacing

SPACING_MM = (9.0, 5.0, 4.0)  # of the training volumes at the finest scale
DEPTH = {"3d": 9, "2d": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, chest_volumes):
    """Workdirs: "3d" and "2d" with three scales, "begun" with two of "3d", and "liver"."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("3d", "2d", "begun"):
        config = ConfigDict(_config(name, chest_volumes).to_dict())
        scale = 1 if name == "begun" else 2
        for number in range(scale):
            (folder / name / f"scale_{number}" / "checkpoints" / "1").mkdir(parents=True)
        config.pyramid.scale = scale
        untrained.save(scale_directory(str(folder / name), scale), config)
    config = liver.get_config()
    config.data.image_size = 32
    config.generator.width = config.discriminator.width = 2
    untrained.save(folder / "liver", config)
    return folder


@pytest.fixture(scope="module")
def chest_volumes(tmp_path_factory):
    """Folder of the embedded volumes, prepared at the sizes of both runs."""
    data_dir = str(tmp_path_factory.mktemp("data"))
    for name in ("3d", "2d"):
        prepared.ensure_prepared(_config(name, data_dir).data)
    return data_dir


def _config(name, data_dir):
    """Three scales of 8, 12 and 18 pixels per side, in 3D with half as many slices."""
    config = (ct_pyramid_2d if name == "2d" else ct_pyramid_3d).get_config("quickstart")
    config.pyramid.min_size, config.pyramid.max_size = 8, 18
    config.pyramid.factor, config.pyramid.depth_divisor = 1.5, 2
    config.data.image_size, config.data.depth = 18, DEPTH.get(name, 9)
    config.data.data_dir = data_dir
    config.data.spacing_mm = SPACING_MM
    config.generator.width = config.discriminator.width = 8
    config.loss.segmentation_weight = 0.0
    return config


def _load(workdir, scale):
    return load_run(scale_directory(str(workdir), scale), "last")[:3]


def _read(path, spacing_mm):
    """HU [slices, rows, columns], from the feet, the front and the right."""
    image = sitk.ReadImage(str(path))
    assert image.GetPixelIDTypeAsString() == "16-bit signed integer"
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1) and image.GetOrigin() == (0, 0, 0)
    np.testing.assert_allclose(image.GetSpacing()[::-1], spacing_mm, rtol=1e-6)
    return sitk.GetArrayFromImage(image)


def _hu(volume):
    return np.rint(1000 * np.asarray(volume, np.float64)).astype(int)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("run", ["3d", "2d"])
def test_samples_of_noise(runs, tmp_path, run):
    predict(str(runs / run), None, str(tmp_path), count=2, seed=5)
    assert _names(tmp_path) == [
        *("sample_0000.nii.gz", "sample_0000.png", "sample_0001.nii.gz", "sample_0001.png"),
        "samples.png",
    ]
    run_of = _load(runs / run, 2)
    for number in range(2):
        key = jax.random.fold_in(jax.random.key(5), number)
        expected = _hu(sample(*run_of, key))
        found = _read(tmp_path / f"sample_{number:04d}.nii.gz", SPACING_MM)
        assert found.shape == (DEPTH[run], 18, 18) and expected.std() > 100
        assert np.abs(found - expected).max() <= 1
    for name in ("sample_0000.png", "samples.png"):
        assert np.ptp(np.asarray(Image.open(tmp_path / name))) == 255
    first = (tmp_path / "sample_0000.nii.gz").read_bytes()
    predict(str(runs / run), None, str(tmp_path), count=1, seed=5)
    assert (tmp_path / "sample_0000.nii.gz").read_bytes() == first  # for any count


@pytest.mark.parametrize(
    ("run", "size", "shape"), [("3d", (12, 20, 30), (12, 20, 30)), ("2d", (30, 21), (3, 30, 21))]
)
def test_a_sample_of_another_size_has_voxels_of_the_same(runs, tmp_path, run, size, shape):
    predict(str(runs / run), None, str(tmp_path), count=1, size=size)
    assert _read(tmp_path / "sample_0000.nii.gz", SPACING_MM).shape == shape


def test_an_unfinished_run_samples_its_last_scale(runs, tmp_path):
    predict(str(runs / "begun"), None, str(tmp_path), count=1, format="mhd")
    # The first and the last voxel lie where the training volume's do.
    spacing_mm = np.multiply(SPACING_MM, [8 / 5, 17 / 11, 17 / 11])
    found = _read(tmp_path / "sample_0000.mhd", spacing_mm)
    assert found.shape == (6, 12, 12)
    assert "sample_0000.raw" in _names(tmp_path)
    assert not any(name.startswith(".") for name in _names(tmp_path))


def test_from_a_scale_on_of_a_file(runs, tmp_path):
    """The file is shrunk with antialiasing, as training volumes are, not by dropping voxels."""
    hu = np.random.default_rng(0).integers(-3000, 3000, (7, 60, 70)).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    output = tmp_path / "out"
    options = {"count": 1, "from_scale": 2, "size": (13, 39, 49)}
    predict(str(runs / "3d"), str(tmp_path / "ct.mha"), str(output), **options)
    found = _read(output / "sample_0000.nii.gz", (1.5, 2 * 59 / 38, 69 / 48))
    volume = _resized(np.clip(hu, -1000, 1000) / 1000, (13, 39, 49))
    key = jax.random.fold_in(jax.random.key(0), 0)
    expected = sample(*_load(runs / "3d", 2), key, (13, 39, 49), 2, volume)
    assert np.abs(found - _hu(expected)).max() <= 1
    # The spacing of a sample follows from the file's, so that has to be known.
    given = str(runs / "3d"), str(without_spacing(tmp_path / "ct.mha")), str(output)
    with pytest.raises(DataError, match=r"ct\.mha does not say .* a sample's own spacing needs"):
        predict(*given, **options)
    predict(*given, **options, spacing_mm="3,2,1")
    np.testing.assert_array_equal(
        _read(output / "sample_0000.nii.gz", (1.5, 2 * 59 / 38, 69 / 48)), found
    )


def _resized(volume, shape):
    """Resizes with corners aligned, and with triangles as wide as new voxels on shrinking axes."""
    for axis, new in enumerate(shape):
        old = volume.shape[axis]
        apart = np.arange(old) - np.linspace(0, old - 1, new)[:, None]
        weights = np.maximum(0, 1 - np.abs(apart) / max(1, (old - 1) / (new - 1)))
        weights /= weights.sum(axis=1, keepdims=True)
        volume = np.moveaxis(np.tensordot(weights, volume, (1, axis)), 0, axis)
    return volume


def test_a_file_of_other_voxels_than_training_had(runs, tmp_path):
    """It gets cubic voxels first if training had them; a run that learnt from crops takes crops."""
    hu = np.random.default_rng(0).integers(-1000, 1000, (9, 24, 30)).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    config, *_ = _load(runs / "3d", 2)
    config.data.isotropic_mm = 2.0
    read = samples._read(str(tmp_path / "ct.mha"), None, NOTHING, config, (9, 12, 15))
    # The middles of pairs of voxels. With aligned corners nothing is left to resize then.
    places = [np.arange(9), np.arange(12) * 2 + 0.5, np.arange(15) * 2 + 0.5]
    expected = volume_resizing.linear(hu, places) / 1000
    np.testing.assert_allclose(read.image, expected, atol=1e-5)
    assert read.spacing_mm == (2.0, 2.0, 2.0)

    config.data.isotropic_mm, config.data.crops = 0.0, 2
    with pytest.raises(ConfigError, match="has 9 x 24 x 30 voxels, but this run learnt from crops"):
        samples._read(str(tmp_path / "ct.mha"), None, NOTHING, config, (9, 12, 15))
    same = samples._read(str(tmp_path / "ct.mha"), None, NOTHING, config, (9, 24, 30))
    np.testing.assert_allclose(same.image, hu / 1000, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["3d", "2d"])
def test_training_volumes(runs, tmp_path, run):
    """Reconstructions of the training volumes, and samples that begin with these volumes."""
    config, system, generator = _load(runs / run, 2)
    (batch,) = pipeline.eval_batches(config.data, "train")
    (spacing_mm,) = {example.spacing_mm for example in prepared.examples(config.data, "train")}
    made = np.asarray(generate(system, generator, system.normalise(batch)[0]))[0]
    made = np.moveaxis(made, -1, 0) if run == "2d" else made[..., 0]
    predict(str(runs / run), None, str(tmp_path / "a"), reconstruct=True)
    assert _names(tmp_path / "a") == [  # one training volume
        *("reconstruction_0000.nii.gz", "reconstruction_0000.png", "reconstructions.png"),
    ]
    found = _read(tmp_path / "a" / "reconstruction_0000.nii.gz", spacing_mm)
    assert np.abs(found - _hu(np.clip(made, -1, 1))).max() <= 1 and found.std() > 100

    predict(str(runs / run), None, str(tmp_path), from_scale=1, count=2)
    stored = np.clip(batch["source"][0, ..., 0], -1000, 1000) / 1000
    key = jax.random.fold_in(jax.random.key(0), 1)
    expected = sample(config, system, generator, key, None, 1, stored)
    found = _read(tmp_path / "sample_0001.nii.gz", spacing_mm)
    assert np.abs(found - _hu(expected)).max() <= 1


@pytest.mark.slow
def test_training_volumes_come_from_where_the_user_says(runs, chest_volumes, tmp_path):
    """The config of a run from elsewhere may name any store."""
    shutil.copytree(runs / "2d", tmp_path / "2d")
    path = tmp_path / "2d/scale_2/config.json"
    path.write_text(path.read_text().replace(chest_volumes, "s3://nobody/data"))
    options = str(tmp_path / "2d"), None, str(tmp_path / "out")
    with pytest.raises(DataError, match=r"s3://nobody/data/luna16/.* is not on this machine"):
        predict(*options, reconstruct=True)
    predict(*options, data_dir=chest_volumes, reconstruct=True)
    assert "reconstruction_0000.nii.gz" in _names(tmp_path / "out")


REFUSALS = [
    ("3d", {"count": 0}, "count=0: use 1 or more"),
    ("3d", {"format": "png"}, "format=png: use one of nii, nii.gz"),
    ("3d", {"size": (18, 18)}, "size=18,18: use D,H,W, each 1 or more"),
    ("2d", {"size": (3, 18, 18)}, "size=3,18,18: use H,W, each 1 or more"),
    ("2d", {"size": (0, 18)}, "size=0,18: use H,W"),
    ("3d", {"size": ("a", "b", "c")}, "size=a,b,c: use D,H,W"),
    ("3d", {"from_scale": 3}, "from_scale=3: use 0 to 2"),
    ("3d", {"from_scale": -1}, "from_scale=-1: use 0 to 2"),
    ("3d", {"reconstruct": True, "size": (9, 18, 18)}, "leave from_scale and size out"),
    ("3d", {"reconstruct": True, "from_scale": 1}, "leave from_scale and size out"),
    ("liver", {"count": 3}, "count is of runs that make CT volumes of noise"),
    ("liver", {}, "the input is missing"),
]


@pytest.mark.parametrize(("run", "sampling", "message"), REFUSALS)
def test_refusals(runs, tmp_path, run, sampling, message):
    with pytest.raises(ConfigError, match=message):
        predict(str(runs / run), None, str(tmp_path / "out"), **sampling)
    assert not (tmp_path / "out").exists()


def test_refusals_of_what_is_not_of_pyramids(runs, tmp_path):
    for option in (
        {"mask": "m.nii"},
        {"threshold": 0.5},
        {"mc_dropout": 2},
        {"largest_components": 1},
    ):
        with pytest.raises(ConfigError, match="which makes CT volumes of noise: leave it out"):
            predict(str(runs / "3d"), None, str(tmp_path), **option)
    with pytest.raises(ConfigError, match="input is what from_scale begins with"):
        predict(str(runs / "3d"), "ct.nii", str(tmp_path))
    with pytest.raises(DataError, match=r"absent\.nii"):
        predict(str(runs / "3d"), "absent.nii", str(tmp_path), from_scale=1)


@pytest.mark.slow
def test_the_command_without_tensorflow_and_data(runs, tmp_path):
    arguments = [f"--workdir={runs / '3d'}", f"--output={tmp_path}", "--count=1", "--format=mha"]
    out, _ = commands.run("launch.predict", *arguments, variables=untrained.QUIET)
    assert str(tmp_path / "sample_0000.mha") in out and str(tmp_path / "samples.png") in out
    arguments.append("--size=4")
    _, err = commands.run("launch.predict", *arguments, code=1, variables=untrained.QUIET)
    assert "size=4: use D,H,W" in commands.error_line(err)
