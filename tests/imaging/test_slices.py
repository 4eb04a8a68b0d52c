"""From slices as read to slices as stored."""

import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.slices import class_indices, resize, stored_mask

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def test_class_indices():
    mask = np.array([[0, 255], [128, 0]], np.uint8)
    classes = class_indices(mask, (0, 128, 255), "m.npy")
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, [[0, 2], [1, 0]])
    with pytest.raises(DataError, match=r"m\.npy.*value 128.*mask_values 0,255"):
        class_indices(mask, (0, 255), "m.npy")


def test_resize_nearest_picks_and_bilinear_averages():
    image = np.array([[0, 0, 100, 100], [0, 0, 100, 100], [8, 8, 40, 40], [8, 8, 40, 40]], np.uint8)
    np.testing.assert_array_equal(resize(image, 2, "nearest"), [[0, 100], [8, 40]])
    stripes = np.tile(np.uint8([0, 200]), (64, 32))
    assert set(np.unique(resize(stripes, 8, "nearest"))) <= {0, 200}
    assert abs(resize(stripes, 8, "bilinear").astype(int) - 100).max() < 20  # antialiased
    assert resize(RAMP, 5, "bilinear").shape == (5, 5)  # not square before


@pytest.mark.parametrize(
    ("mask_values", "grey"), [((0, 1, 2), [0, 127, 254]), ((0, 255), [0, 254])]
)
def test_stored_masks_are_evenly_spaced(mask_values, grey):
    mask = np.array([mask_values] * len(mask_values), np.uint8)
    stored = stored_mask(mask, "m.npy", mask_values, len(mask_values), "nearest")
    np.testing.assert_array_equal(stored[0, :, 0], grey)
    assert (stored[0, 0, 0] / 127 - 1, stored[0, -1, 0] / 127 - 1) == (-1, 1)
