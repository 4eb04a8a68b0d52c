"""launch.evaluate for masks, on runs of a few steps, recomputed with NumPy and scikit-learn."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score

from input_pipeline import pipeline
from jax_pix2pix.adversarial import generate
from jax_pix2pix.evaluation.masks import THRESHOLDS
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.inference.masks import probability_function
from jax_pix2pix.metrics.mask_scores import PROTOCOLS
from jax_pix2pix.runs.workdir import load_run
from tests import commands

SYSTEMS = ("xray_lungs", "liver", "liver_3d")
pytestmark = pytest.mark.slow  # it trains these


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("runs")
    for system in SYSTEMS:
        shutil.copytree(tiny_run(system), folder / system)
    return {system: folder / system for system in SYSTEMS}


@functools.cache  # the same command twice prints and writes the same
def _evaluated(workdir, *arguments, split="test"):
    arguments = [f"--workdir={workdir}", f"--split={split}", *arguments]
    out, _ = commands.run("launch.evaluate", *arguments)
    return json.loads((workdir / "evaluation" / f"{split}.json").read_text()), out


def _masks(workdir, split="test"):
    """(probabilities, references), each [n, h, w], slice by slice without the command's code."""
    config, system, generator, _ = load_run(workdir, "best")
    data = config.data
    found = {}
    for batch in pipeline.eval_batches(data, split):
        source, target = system.normalise(batch)
        fake = np.asarray(generate(system, generator, source))[..., 0]
        target = np.asarray(target)[..., 0]
        if config.system == "xray_lungs":
            fake, target = (fake + 1) / 2, (target + 1) / 2
        for place in np.argwhere(batch["index"] >= 0):
            place = tuple(place)
            found[int(batch["index"][place])] = fake[place], target[place]
    probabilities, references = zip(*(found[i] for i in sorted(found)), strict=True)
    return np.stack(probabilities), np.stack(references) > 0.5


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_are_recomputed(runs, system):
    results, out = _evaluated(runs[system])
    probabilities, references = _masks(runs[system])
    region = "lungs" if system == "xray_lungs" else "liver"
    model = results["results"]["model"][region]
    images = model["per_image"]
    assert images["overall"]["dice"]["cases"] == len(references) == len(images["cases"])
    for case, probability, reference in zip(
        images["cases"], probabilities, references, strict=True
    ):
        expected = f1_score(reference.ravel(), probability.ravel() > 0.5, zero_division=1.0)
        assert case["dice"] == pytest.approx(expected, abs=2e-3)
    if system == "xray_lungs":
        assert "per_volume" not in model
        assert "hd95_mm" not in images["cases"][0]
        assert results["spacing_unknown"] == sorted({case["patient"] for case in images["cases"]})
        assert UNKNOWN in out
    else:
        assert results["spacing_unknown"] == [] and UNKNOWN not in out
        volume = model["per_volume"]["overall"]
        expected = jaccard_score(references.ravel(), probabilities.ravel() > 0.5)
        assert volume["iou"]["mean"] == pytest.approx(expected, abs=2e-3)
        assert volume["dice"]["interval_95"] is None  # one patient
    assert set(results["protocols"]) == {*PROTOCOLS, "grid"}
    assert str(runs[system] / "evaluation" / "test.png") in out
    with Image.open(runs[system] / "evaluation" / "test.png") as picture:
        assert picture.width == 3 * 324 + 4


def test_the_best_threshold_is_of_the_validation_split(runs):
    results, _ = _evaluated(runs["xray_lungs"])
    best = results["best_threshold"]
    probabilities, references = _masks(runs["xray_lungs"], "validation")
    for threshold in (THRESHOLDS[3], 0.5, best["threshold"]):
        expected = np.mean(
            [
                f1_score(reference.ravel(), probability.ravel() > threshold)
                for probability, reference in zip(probabilities, references, strict=True)
            ]
        )
        assert best["validation_dice"][str(threshold)] == pytest.approx(expected, abs=2e-3)
    assert best["validation_dice"][str(best["threshold"])] == max(best["validation_dice"].values())
    assert (
        results["threshold"] == 0.5
        and f"model, threshold {best['threshold']}" in (results["results"])
    )


def test_validation_while_training_scores_the_same(runs):
    for system in ("liver", "liver_3d"):
        results, _ = _evaluated(runs[system], "--checkpoint=last", split="validation")
        logged = commands.metrics(runs[system], "validation")[-1]["dice"]
        overall = results["results"]["model"]["liver"]["per_volume"]["overall"]
        assert overall["dice"]["mean"] == pytest.approx(logged, abs=1e-9)


def test_dropout_passes_are_averaged(runs):
    config, system, generator, _ = load_run(runs["xray_lungs"], "best")
    (batch, *_) = pipeline.eval_batches(config.data, "test")
    source, _ = system.normalise(batch)
    plain, none = probability_function(system)(generator, source)
    assert not np.asarray(none).any()
    mean, deviation = probability_function(system, mc_dropout=8)(generator, source)
    passes = np.stack(
        [
            (np.asarray(generate(system, generator, source, key)) + 1) / 2
            for key in jax.random.split(jax.random.key(0), 8)
        ]
    )
    np.testing.assert_allclose(mean, passes.mean(0), atol=1e-5)
    np.testing.assert_allclose(deviation, passes.std(0), atol=1e-5)
    assert np.abs(np.asarray(mean - plain)).max() > 1e-4 and np.asarray(deviation).max() > 1e-4
    one, _ = probability_function(system, mc_dropout=1)(generator, source)
    assert np.abs(np.asarray(mean - one)).max() > 1e-4
    results, _ = _evaluated(runs["xray_lungs"], "--mc_dropout=2")
    assert results["mc_dropout"] == 2


def test_clean_up_is_stated(runs):
    results, _ = _evaluated(runs["liver"], "--largest_components=1", "--fill_holes")
    assert results["largest_components"] == 1 and results["fill_holes"]
    assert "nearest voxel" in results["protocols"]["fill_holes"]
    assert "26-connected" in results["protocols"]["largest_components"]


@pytest.mark.parametrize(
    ("system", "flag", "message"),
    [
        ("liver", "--mc_dropout=4", "has no dropout"),
        ("liver", "--largest_components=-1", "largest_components=-1"),
    ],
)
def test_refusals(runs, system, flag, message):
    _, err = commands.run("launch.evaluate", f"--workdir={runs[system]}", flag, code=1)
    assert message in commands.error_line(err)


def test_a_run_draws_its_loss_curve_and_outlines(runs):
    for system in SYSTEMS:
        with Image.open(runs[system] / "loss_curve.png") as picture:
            assert picture.size == (800, 600)
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
        with Image.open(runs[system] / "samples" / "epoch_0002.png") as picture:
            colours = np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()
            assert [0, 255, 0] in colours or [255, 255, 0] in colours
