"""Predictions and results say that a run has seen their patient in training."""

import numpy as np
import pytest
from PIL import Image

import jax_pix2pix
from input_pipeline import Dataset
from input_pipeline.prepared import SAMPLES
from jax_pix2pix.evaluation.evaluate import evaluate

pytestmark = pytest.mark.slow  # the first to come trains the run
XRAYS = SAMPLES / "xray_simulated" / "img"


@pytest.fixture(scope="module")
def run(tiny_run):
    return jax_pix2pix.load(tiny_run("xray_lungs"))


def test_a_picture_is_known_by_its_pixels_whatever_its_name_and_size(run):
    trained = next(one for one in run.known if one.split == "train")
    picture = Image.open(XRAYS.parent / trained.file_name)
    smaller = np.asarray(picture.resize((300, 310)))
    prediction = run.predict(smaller)
    assert f"seen this in training: {trained.file_name} of patient" in prediction.notes[-1]
    assert "by pixels" in prediction.notes[-1]
    unseen = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert not any("seen" in note for note in run.predict(unseen).notes)


def test_results_say_who_was_seen(run):
    """All of the sample's angles are of one patient, so that its scores flatter."""
    found = evaluate(run, Dataset(run.config.data))
    assert found.results["seen"] == {"patients": 1, "seen": {"TS-CTA-0001": "name"}}
    assert "seen in training or validation: 1 of 1 scored patients" in found.table
    run.known = []
    assert "seen in training: not known" in evaluate(run, Dataset(run.config.data)).table
