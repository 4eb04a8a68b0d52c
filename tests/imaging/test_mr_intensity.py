"""Stored intensities of MR, cone beam CT and pictures, against their definitions in float64."""

import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.mr_intensity import (
    grey_to_hu,
    hu_to_grey,
    stored_cbct,
    stored_grey,
    stored_mr,
)


def test_an_mr_is_scaled_by_percentiles_of_its_body():
    rng = np.random.default_rng(0)
    values = rng.uniform(-50, 4000, (6, 20, 20)).astype(np.float32)
    mask = (rng.random(values.shape) < 0.4).astype(np.uint8)
    values[mask == 0] *= 3  # outside counts for nothing
    stored = stored_mr(values, mask, (1.0, 98.0))
    inside = np.sort(values[mask == 1].astype(np.float64))
    low, high = (
        np.interp(share * (len(inside) - 1), np.arange(len(inside)), inside)
        for share in (0.01, 0.98)
    )
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 65535
    assert stored.dtype == np.uint16
    assert np.abs(stored - expected).max() <= 0.51
    assert (stored == 0).any() and (stored == 65535).any()


def test_the_unit_of_an_mr_does_not_matter():
    values = np.random.default_rng(0).uniform(0, 900, (3, 9, 9)).astype(np.float32)
    mask = np.ones(values.shape, np.uint8)
    stored = stored_mr(values, mask, (0.5, 99.5)).astype(int)
    other = stored_mr(values * np.float32(0.37) + 40, mask, (0.5, 99.5))
    assert np.abs(stored - other).max() <= 1


def test_a_cone_beam_ct_keeps_its_units():
    hu = np.array([-2000, -1024, -1000, 0, 3071, 3072, 32767], np.int16)
    stored = stored_cbct(hu)
    assert stored.dtype == np.uint16
    assert stored.tolist() == [0, 0, 24 * 16, 16384, 4095 * 16, 65535, 65535]


def test_pictures_span_their_windows():
    grey = np.arange(256, dtype=np.uint8)
    assert stored_grey(grey).dtype == np.uint16
    assert stored_grey(grey).tolist() == [257 * value for value in range(256)]
    hu = grey_to_hu(grey, (-1000, 1550))
    assert hu.dtype == np.int16 and hu.tolist() == [-1000 + 10 * value for value in range(256)]


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (np.arange(4.0), np.zeros(4, np.uint8), "nothing in the body mask"),
        (np.full(4, 7.0), np.ones(4, np.uint8), "both 7: correct"),
    ],
)
def test_what_cannot_be_scaled_is_refused(values, mask, message):
    with pytest.raises(DataError, match=message):
        stored_mr(values, mask, (0.5, 99.5))


def test_grey_comes_back_from_hu_and_what_lies_beyond_its_window_is_clipped():
    grey, window = np.arange(256, dtype=np.uint8), (-1000, 1550)
    np.testing.assert_array_equal(hu_to_grey(grey_to_hu(grey, window), window), grey)
    np.testing.assert_array_equal(hu_to_grey(np.array([-1e5, -996.0, 1e5]), window), [0, 0, 255])
    np.testing.assert_array_equal(hu_to_grey(np.array([-994.0, 44.0]), window), [1, 104])
