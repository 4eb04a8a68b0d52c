"""Normalised mutual information against scikit-image."""

import numpy as np
import pytest
from skimage.metrics import normalized_mutual_information

from jax_pix2pix.metrics.mutual_information import BINS, normalised_mutual_information


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_is_that_of_scikit_image(noise):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(8, 30, 40))
    other = -3 * one**2 + noise * rng.normal(size=one.shape)
    wanted = normalized_mutual_information(one, other, bins=BINS)
    assert normalised_mutual_information(one, other) == pytest.approx(wanted, rel=1e-12)


def test_of_nothing_is_undefined():
    assert np.isnan(normalised_mutual_information(np.zeros((0, 2)), np.zeros((0, 2))))
    assert np.isnan(normalised_mutual_information(np.ones(9), np.ones(9)))
