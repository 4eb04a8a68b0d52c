"""Overlap against MONAI and scikit-learn, and sums over padding and devices."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou
from sklearn.metrics import confusion_matrix, recall_score

from jax_pix2pix import sharding
from jax_pix2pix.metrics.overlap import PROTOCOLS, overlap_counts, overlap_scores
from tests.masks import blobs, pairs

SHAPES = [(23, 31), (7, 18, 20)]
CASES = [(shape, name) for shape in SHAPES for name in pairs(SHAPES[0])]


def _whole(counts):
    """The counts of all slices together."""
    return {name: np.asarray(count).sum(dtype=np.int64) for name, count in counts.items()}


@pytest.mark.parametrize(("shape", "name"), CASES)
def test_scores_are_monais_and_scikit_learns(shape, name):
    prediction, reference = pairs(shape)[name]
    counts = jax.jit(overlap_counts)(prediction, reference)
    scores = overlap_scores(**_whole(counts))
    assert set(scores) == set(PROTOCOLS)

    one_hot = [torch.as_tensor(mask)[None, None] for mask in (prediction, reference)]
    dice = compute_dice(*one_hot, ignore_empty=False).item()
    iou = compute_iou(*one_hot, ignore_empty=False).item()
    assert scores["dice"] == pytest.approx(dice, abs=1e-6)
    assert scores["iou"] == pytest.approx(iou, abs=1e-6)
    truth, guess = reference.ravel(), prediction.ravel()
    expected = {
        "sensitivity": recall_score(truth, guess, zero_division=np.nan),
        "specificity": recall_score(~truth, ~guess, zero_division=np.nan),
    }
    for score, value in expected.items():
        assert scores[score] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_empty_masks():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    both_empty = overlap_scores(**overlap_counts(empty, empty))
    assert both_empty["dice"] == both_empty["iou"] == both_empty["specificity"] == 1
    assert np.isnan(both_empty["sensitivity"])
    missed = overlap_scores(**overlap_counts(empty, full))
    assert missed["dice"] == missed["iou"] == missed["sensitivity"] == 0
    assert np.isnan(missed["specificity"])
    invented = overlap_scores(**overlap_counts(full, empty))
    assert invented["dice"] == invented["iou"] == invented["specificity"] == 0
    assert np.isnan(invented["sensitivity"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no division by zero on the way
        overlap_scores(**overlap_counts(np.zeros((2, 3, 4, 5), bool), empty))


def test_one_entry_for_each_slice_and_threshold():
    """Slices match scikit-learn, thresholds add an axis, and NumPy's counts match JAX's."""
    rng = np.random.default_rng(1)
    reference = blobs(rng, (3, 4, 10, 12))
    probability = rng.random(reference.shape, np.float32) * 0.6 + reference * 0.3
    thresholds = np.array([0.2, 0.5, 0.8], np.float32)
    prediction = probability > thresholds[:, None, None, None, None]
    counts = overlap_counts(prediction, reference)
    on_device = jax.jit(overlap_counts)(prediction, reference)
    for name, count in counts.items():
        assert count.shape == (3, 3, 4) and count.dtype == on_device[name].dtype == np.int32
        np.testing.assert_array_equal(count, on_device[name])
    for t, n, d in np.ndindex(3, 3, 4):
        expected = confusion_matrix(
            reference[n, d].ravel(), prediction[t, n, d].ravel(), labels=[False, True]
        )
        here = [int(counts[name][t, n, d]) for name in ("tn", "fp", "fn", "tp")]
        assert here == expected.ravel().tolist()
    scores = overlap_scores(**counts)
    assert scores["dice"].shape == (3, 3, 4) and scores["dice"].dtype == np.float64


@pytest.mark.parametrize("shape", [(16, 20, 24), (16, 3, 20, 24)])
def test_sums_are_exact_under_padding_and_sharding(shape):
    """Eight devices, and noise in rows of weight 0, give the sums over the real rows alone."""
    rng = np.random.default_rng(2)
    prediction, reference = rng.random(shape) < 0.4, rng.random(shape) < 0.3
    weight = np.ones(len(prediction), np.float32)
    weight[[3, 14, 15]] = 0
    batch = {"prediction": prediction, "reference": reference, "weight": weight}

    @jax.jit
    def total(batch):
        counts = overlap_counts(batch["prediction"], batch["reference"])
        real = batch["weight"].reshape(-1, *(1,) * (len(shape) - 3)) > 0
        return {name: jnp.where(real, count, 0).sum() for name, count in counts.items()}

    sharded = sharding.to_global(batch, sharding.make_mesh(2, 16))
    assert len(sharded["prediction"].sharding.device_set) == 8
    totals = total(sharded)
    real = weight > 0
    expected = confusion_matrix(reference[real].ravel(), prediction[real].ravel()).ravel()
    assert [int(totals[name]) for name in ("tn", "fp", "fn", "tp")] == expected.tolist()


def test_sums_of_a_large_volume_do_not_overflow():
    """800 slices of 512 x 512, many times over, are beyond 32 bits."""
    counts = {"tp": 3 * 2**32, "fp": 2**32, "fn": 2**32, "tn": 2**32}
    assert overlap_scores(**counts)["dice"] == 0.75
