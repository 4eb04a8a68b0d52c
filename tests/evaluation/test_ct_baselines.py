"""The baselines of synthetic CT, refitted with NumPy."""

import numpy as np
import pytest

from jax_pix2pix.evaluation.ct_baselines import AIR_HU, TISSUES, fit_baselines

RANGE = (0, 65535)
LEVELS = np.array([2_000, 20_000, 38_000, 61_000])  # of four tissues
LINES = ((0.02, -900.0), (-0.001, 30.0), (0.0015, -20.0), (-0.01, 1500.0))


def slices(count=6, seed=0, noise=5.0):
    """(source, hu, mask, tissue): tissues are apart in the source, each with its line to HU."""
    rng = np.random.default_rng(seed)
    tissue = rng.integers(0, TISSUES, (count, 12, 10))
    source = (LEVELS[tissue] + rng.normal(0, 900, tissue.shape)).clip(*RANGE).astype(np.uint16)
    slope, intercept = np.moveaxis(np.array(LINES)[tissue], -1, 0)
    hu = np.rint(slope * source + intercept + rng.normal(0, noise, tissue.shape))
    mask = rng.uniform(size=tissue.shape) < 0.7
    return source, hu.astype(np.int16), mask, tissue


def batches(source, hu, mask, size):
    for start in range(0, len(source), size):
        part = slice(start, start + size)
        yield source[part], hu[part], mask[part]


def test_mean_ct_is_of_the_bodies_alone():
    source, hu, mask, _ = slices()
    mask[:, 0, 0] = False
    hu = np.where(mask, hu, 3000).astype(np.int16)  # couch and air do not count
    fitted = fit_baselines(batches(source, hu, mask, 4), RANGE)["mean_ct"]
    expected = np.ma.array(hu, mask=~mask, dtype=np.float64).mean(0)
    np.testing.assert_allclose(fitted.mean_hu, expected.filled(hu[mask].mean()), rtol=1e-12)
    assert fitted.mean_hu[0, 0] == pytest.approx(hu[mask].mean())
    made = fitted(source[:2], mask[:2])
    np.testing.assert_array_equal(made, np.where(mask[:2], fitted.mean_hu, AIR_HU))


def test_tissue_regression_is_the_least_squares_line_of_each_tissue():
    source, hu, mask, tissue = slices()
    fitted = fit_baselines(batches(source, hu, mask, 4), RANGE)["tissue_regression"]
    assert all(
        low < edge < high for low, edge, high in zip(LEVELS, fitted.edges, LEVELS[1:], strict=False)
    )
    for k in range(TISSUES):
        chosen = mask & (tissue == k)
        expected = np.polyfit(source[chosen].astype(float), hu[chosen].astype(float), 1)
        assert [fitted.slopes[k], fitted.intercepts[k]] == pytest.approx(expected, rel=1e-6)
    made = fitted(source, mask)
    assert np.abs(made - hu)[mask].mean() < 6 and (made[~mask] == AIR_HU).all()


def test_a_narrow_range_of_few_values_is_fitted():
    """Cone beam CT and 8-bit pictures fill a part of the range with few values."""
    source = np.repeat([100, 200, 300, 400], 30).reshape(4, 6, 5).astype(np.uint16)
    hu = np.repeat([-500, 0, 40, 900], 30).reshape(4, 6, 5).astype(np.int16)
    mask = np.ones(hu.shape, bool)
    fitted = fit_baselines([(source, hu, mask)], (0, 511))["tissue_regression"]
    np.testing.assert_allclose(fitted(source, mask), hu, atol=1e-6)
    assert not fitted.slopes.any()  # a level has no slope


def test_a_source_of_one_value_has_the_mean():
    source = np.full((2, 5, 5), 7, np.uint16)
    hu = np.arange(50).reshape(2, 5, 5).astype(np.int16)
    mask = np.ones(hu.shape, bool)
    fitted = fit_baselines([(source, hu, mask)], RANGE)["tissue_regression"]
    np.testing.assert_allclose(fitted(source, mask), 24.5)
    np.testing.assert_allclose(fitted(source + 40_000, mask), 24.5)
