"""launch.evaluate for a pyramid, recomputed from the sample's files and the networks' outputs."""

import csv
import json
import os

import jax
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import jax_pix2pix
from configs import ct_pyramid_2d, ct_pyramid_3d, xray_lungs
from input_pipeline import pipeline, prepared
from input_pipeline.dataset import Dataset
from jax_pix2pix.adversarial import create_state, generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.evaluation.evaluate import evaluate
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.pyramid import at_scale
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.workdir import build_system, example_batch, load_state
from jax_pix2pix.runs.workdir_files import checkpoint_path, claim, scale_directory
from tests import commands, untrained

COUNT, SEED = 3, 5
pytestmark = pytest.mark.slow
SAMPLE = commands.ROOT / "input_pipeline" / "samples" / "chest_volumes"
HELD_OUT = "PR-LUNG1-0001"


def _config(dimensions, data_dir):
    config = (ct_pyramid_2d if dimensions == 2 else ct_pyramid_3d).get_config("quickstart")
    config.data.data_dir = str(data_dir)
    config.data.image_size, config.data.depth = 24, 8
    config.pyramid.min_size, config.pyramid.max_size = 16, 24
    config.pyramid.factor, config.pyramid.depth_divisor = 1.5, 3
    config.generator.width = config.discriminator.width = 4
    config.loss.segmentation_weight = 0.0
    config.steps_per_epoch = 10
    return config


def _save(workdir, config):
    """Saves a run of two scales; the second one has its state before training, weights drawn."""
    claim(workdir, config)
    for scale in range(2):
        scale_config = at_scale(config, scale)
        claim(scale_directory(workdir, scale), scale_config)
    system = build_system(scale_config)
    state = create_state(system, jax.random.key(1), example_batch(scale_config))
    # With the weights as drawn for training, next to nothing of the noise is left.
    state = jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim > 1 else leaf, state)
    os.makedirs(os.path.join(checkpoint_path(scale_directory(workdir, 0)), "1"))  # as if trained
    directory = checkpoint_path(scale_directory(workdir, 1))
    checkpoints = Checkpoints(directory, system.task.best_metric)
    checkpoints.save(7, state)
    checkpoints.wait()
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{dimensions: workdir}; the command has evaluated the one in 3D."""
    folder = tmp_path_factory.mktemp("runs")
    configs = {n: _config(n, folder / "data") for n in (2, 3)}
    prepared.ensure_prepared(configs[3].data)
    for config in configs.values():
        spacing = prepared.spacing_mm(config.data, prepared.examples(config.data, "train"))
        config.data.spacing_mm = spacing
    return {n: _save(folder / f"{n}d", config) for n, config in configs.items()}


@pytest.fixture(scope="module")
def written(runs):
    arguments = [f"--workdir={runs[3]}", f"--count={COUNT}", f"--seed={SEED}"]
    out, _ = commands.run("launch.evaluate", *arguments, variables=untrained.QUIET)
    return runs[3] / "evaluation", out


@pytest.fixture(scope="module")
def results(runs, written):
    """{dimensions: contents of train.json}."""
    run = jax_pix2pix.load(runs[2])
    of_2d = evaluate(run, Dataset(run.config.data), count=COUNT, seed=SEED).results
    return {2: of_2d, 3: json.loads((written[0] / "train.json").read_text())}


def _stored(config, split):
    """(clipped HU [d, h, w], its batch) of a split's only volume."""
    (batch,) = pipeline.eval_batches(config.data, split)
    return np.clip(batch["source"][0, ..., 0], -1000, 1000).astype(np.float64), batch


def _as_volume(image, dimensions):
    return np.moveaxis(image, -1, 0) if dimensions == 2 else image[..., 0]


def test_the_volumes_are_those_of_the_files(runs):
    config, *_ = load_state(scale_directory(runs[3], 1), "last")
    for split, name in (("train", "subset0/TS-CTA-0001"), ("test", f"subset9/{HELD_OUT}")):
        file = sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLE / f"{name}.mhd")))
        stored, _ = _stored(config, split)
        assert stored.shape == (8, 24, 24)
        assert stored.mean() == pytest.approx(np.clip(file, -1000, 1000).mean(), abs=60)


@pytest.mark.parametrize("dimensions", [pytest.param(2, marks=pytest.mark.long), 3])
def test_memorisation_is_of_the_fixed_noise(runs, results, dimensions):
    config, system, state, _ = load_state(scale_directory(runs[dimensions], 1), "last")
    hu, batch = _stored(config, "train")
    made = np.asarray(generate(system, state.generator, system.normalise(batch)[0]))[0]
    made = (np.clip(_as_volume(made, dimensions), -1, 1).astype(np.float64) + 1) / 2
    real = (hu + 1000) / 2000
    (case,) = results[dimensions]["results"]["memorisation"]["cases"]
    assert case["patient"] == "TS-CTA-0001"
    assert case["mse"] == pytest.approx(np.mean((made - real) ** 2), rel=1e-4)
    assert case["psnr"] == pytest.approx(
        peak_signal_noise_ratio(real, made, data_range=1), rel=1e-4
    )
    ssim = structural_similarity(real, made, data_range=1)
    assert case["ssim"] == pytest.approx(ssim, abs=1e-5) and case["ssim"] < 0.99


def _samples(config, system, state):
    keys = [jax.random.fold_in(jax.random.key(SEED), number) for number in range(COUNT)]
    return [sample(config, system, state.generator, key) * 1000.0 for key in keys]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_samples_are_those_of_the_seed(runs, results, dimensions):
    config, system, state, _ = load_state(scale_directory(runs[dimensions], 1), "last")
    real, _ = _stored(config, "train")
    held_out, _ = _stored(config, "test")
    samples = _samples(config, system, state)
    found = results[dimensions]
    hu = np.std(samples, axis=0).mean()
    assert found["diversity"]["diversity_hu"] == pytest.approx(hu, rel=1e-4) and hu > 1
    assert found["diversity"]["diversity"] == pytest.approx(hu / real.std(), rel=1e-4)

    d = state.discriminator
    variables = {"params": d.params, "batch_stats": d.batch_stats}

    def gaussian(volume):
        image = np.moveaxis(volume, 0, -1) if dimensions == 2 else volume[..., None]
        image = (image[None] / 1000).astype(np.float32)
        maps = system.discriminator.apply(variables, None, image, train=False)
        vectors = np.asarray(maps[-2], np.float64).reshape(-1, 4)
        return vectors.mean(0), np.cov(vectors.T)

    mean, covariance = gaussian(real)
    groups = found["results"]
    cases = [*groups["samples"]["cases"], *groups["held_out"]["cases"]]
    assert [case.get("patient") for case in cases] == [None] * COUNT + [HELD_OUT]
    for case, volume in zip(cases, [*samples, held_out], strict=True):
        rmse = np.sqrt(np.mean((volume - real) ** 2))
        assert case["nearest_rmse_hu"] == pytest.approx(rmse, rel=1e-4)
        histogram = wasserstein_distance(volume.ravel(), real.ravel())
        assert case["hu_histogram_distance"] == pytest.approx(histogram, abs=1)
        m, c = gaussian(volume)
        expected = np.square(m - mean).sum()
        expected += np.trace(c + covariance - 2 * np.real(sqrtm(c @ covariance)))
        assert case["sifid"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_what_is_written_says_what_it_is(written, results):
    folder, out = written
    found = results[3]
    assert "memorisation is a measure of what was learned by heart, not of quality" in out
    assert "memorisation, not of quality" in found["protocols"]["memorisation"]
    header = {"checkpoint": "last", "step": 7, "scale": 1, "size": [8, 24, 24], "samples": COUNT}
    assert header.items() <= found.items()
    for group in found["results"].values():
        assert set(group["overall"]) <= set(found["protocols"])
    assert len(found["results"]["samples"]["overall"]["sifid"]["interval_95"]) == 2
    rows = list(csv.DictReader((folder / "train.csv").open()))
    assert [row["volume"] for row in rows] == ["memorisation", *["samples"] * COUNT, "held_out"]
    assert float(rows[0]["psnr"]) == found["results"]["memorisation"]["cases"][0]["psnr"]
    picture = np.asarray(Image.open(folder / "train.png"))
    assert len(picture) > len(picture[0])  # five volumes below each other, three planes beside


def test_without_other_patients_there_is_no_yardstick(runs):
    run = jax_pix2pix.load(runs[3])
    run.config.data.test_subsets, run.config.data.validation_subsets = (7,), (8,)
    dataset = Dataset(run.config.data, prepare=True)  # other subsets: other data
    found = evaluate(run, dataset, count=2, volumes=1).results
    assert set(found["results"]) == {"memorisation", "samples"}
    assert found["training_volumes"] == 1


@pytest.mark.parametrize("options, message", [({"count": 1}, "count=1"), ({"volumes": -1}, "vol")])
def test_counts_that_do_not_fit_are_refused(runs, options, message):
    run = jax_pix2pix.load(runs[3])
    with pytest.raises(ConfigError, match=message):
        evaluate(run, Dataset(run.config.data), **options)


@pytest.mark.parametrize(
    "pyramid, argument, message",
    [
        (True, "--split=test", "split=test: a pyramid is evaluated on its training volumes"),
        (False, "--count=4", "count is of pyramids"),
    ],
)
def test_flags_that_do_not_fit_are_refused(runs, tmp_path, pyramid, argument, message):
    claim(tmp_path, xray_lungs.get_config())
    arguments = [f"--workdir={runs[3] if pyramid else tmp_path}", argument]
    _, err = commands.run("launch.evaluate", *arguments, code=1, variables=untrained.QUIET)
    assert message in commands.error_line(err)
