"""Intervals by patient against written-out resampling, and against all possible resamples."""

import itertools

import numpy as np
import pytest

from jax_pix2pix.metrics.bootstrap import bootstrap_interval


def _data(patients, seed=0):
    """Values of patients with 1 to 9 images, close together within a patient."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, patients)
    groups = np.repeat([f"patient {i}" for i in range(patients)], sizes)
    values = np.repeat(rng.normal(0.8, 0.1, patients), sizes) + rng.normal(0, 0.01, len(groups))
    order = rng.permutation(len(groups))
    return values[order], groups[order]


def test_interval_is_that_of_resampled_patients():
    values, groups = _data(30)
    rng = np.random.default_rng(1)
    patients = [values[groups == label] for label in np.unique(groups)]
    means = [
        np.mean(np.concatenate([patients[i] for i in rng.integers(0, 30, 30)]))
        for _ in range(20000)
    ]
    expected = np.percentile(means, [2.5, 97.5])
    interval = bootstrap_interval(values, groups)
    assert interval == pytest.approx(expected, abs=0.04 * (expected[1] - expected[0]))
    # Resampling images as if they were independent would give too narrow an interval.
    images = bootstrap_interval(values, np.arange(len(values)))
    assert images[1] - images[0] < 0.7 * (interval[1] - interval[0])


def test_two_patients_in_closed_form():
    """A quarter of the resamples holds one patient twice: the interval ends at their means."""
    low, high = bootstrap_interval([0.1, 0.3, 0.9], ["a", "a", "b"])
    assert (low, high) == pytest.approx((0.2, 0.9), abs=1e-12)


def test_four_patients_by_all_resamples():
    """All 256 resamples are drawn; both percentiles lie well inside a step of the distribution."""
    sums, counts = np.array([3.0, 10.0, 2.0, 1.0]), np.array([1, 5, 4, 1])
    groups = np.repeat(list("abcd"), counts)
    values = np.repeat(sums / counts, counts)
    means = np.sort(
        [sums[list(c)].sum() / counts[list(c)].sum() for c in itertools.product(range(4), repeat=4)]
    )
    ends = [means[round(share * 256)] for share in (0.025, 0.975)]
    step = [np.mean(means <= end) - share for end, share in zip(ends, (0.025, 0.975), strict=True)]
    assert min(map(abs, step)) > 0.005, step
    assert bootstrap_interval(values, groups) == pytest.approx(ends, abs=1e-12)


def test_undefined_values_are_left_out():
    values, groups = _data(12)
    interval = bootstrap_interval(values, groups)
    more = np.concatenate([values, [np.nan] * 3])
    labels = np.concatenate([groups, ["patient 3", "only undefined", "only undefined"]])
    assert bootstrap_interval(more, labels) == interval  # and the same resamples again


@pytest.mark.parametrize(
    ("values", "groups"),
    [([0.5, 0.7], ["a", "a"]), ([0.5, np.nan], ["a", "b"]), ([np.nan] * 2, ["a", "b"]), ([], [])],
)
def test_no_interval_without_two_patients(values, groups):
    assert bootstrap_interval(values, groups) is None
