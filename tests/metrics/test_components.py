"""Largest components against scikit-image's labels."""

import numpy as np
import pytest
import skimage.measure

from jax_pix2pix.metrics.components import largest_components
from tests.masks import blobs


def _expected(mask, count):
    labels = skimage.measure.label(mask, connectivity=mask.ndim)
    regions = skimage.measure.regionprops(labels)
    first = {r.label: tuple(np.argwhere(labels == r.label)[0]) for r in regions}
    ranked = sorted(regions, key=lambda region: (-region.area, first[region.label]))
    return np.isin(labels, [region.label for region in ranked[:count]])


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 22)])
def test_components_are_scikit_images(shape, count):
    """Noise has many components of one size, so that their order is tested too."""
    rng = np.random.default_rng(count)
    for mask in (blobs(rng, shape), rng.random(shape) < 0.04, np.asfortranarray(blobs(rng, shape))):
        kept = largest_components(mask, count)
        assert kept.dtype == bool
        np.testing.assert_array_equal(kept, _expected(mask, count))


@pytest.mark.parametrize("ndim", [2, 3])
def test_corners_connect(ndim):
    """Two voxels that touch at a corner are one component, larger than a single one before it."""
    mask = np.zeros((6,) * ndim, bool)
    for place in (0, 3, 4):
        mask[(place,) * ndim] = True
    kept = largest_components(mask, 1)
    assert not kept[(0,) * ndim] and kept[(3,) * ndim] and kept[(4,) * ndim]


def test_empty_mask():
    mask = np.zeros((4, 5, 6), bool)
    np.testing.assert_array_equal(largest_components(mask, 1), mask)
