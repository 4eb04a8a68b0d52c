"""Otsu's thresholds against scikit-image and against a search through all thresholds."""

import itertools

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu

from jax_pix2pix.metrics.otsu import thresholds


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_thresholds_are_scikit_images(classes):
    rng = np.random.default_rng(classes)
    modes = ((20, 5, 1000), (80, 10, 2000), (140, 8, 500), (200, 12, 1500))
    values = np.concatenate([rng.normal(*mode) for mode in modes]).clip(0, 255).astype(np.uint8)
    histogram = np.bincount(values, minlength=256)
    expected = threshold_multiotsu(hist=histogram, classes=classes)  # the last bin of a class
    assert thresholds(histogram, classes) == [bin + 1 for bin in expected]


def test_thresholds_are_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(5):
        histogram = rng.integers(0, 9, 12)
        histogram[rng.integers(12, size=4)] = 0
        bins = np.arange(12)

        def within(cuts, histogram=histogram, bins=bins):
            parts = itertools.pairwise([0, *cuts, 12])
            return sum(
                ((bins[a:b] - np.average(bins[a:b], weights=histogram[a:b])) ** 2) @ histogram[a:b]
                for a, b in parts
                if histogram[a:b].any()
            )

        best = min(within(cuts) for cuts in itertools.combinations(range(1, 12), 3))
        found = thresholds(histogram, 4)
        assert sorted(set(found)) == found and within(found) == pytest.approx(best)


def test_one_value_is_no_error():
    assert len(set(thresholds(np.eye(9)[4], 4))) == 3
