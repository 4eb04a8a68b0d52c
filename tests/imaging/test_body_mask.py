"""The body mask, against scikit-image's threshold and components and on a real CT."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters, measure

from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.volume_file import read_ct
from tests.input_pipeline.pairs import body

SAMPLE = Path(__file__).parents[2] / "input_pipeline/samples/abdomen_ct"


@pytest.fixture
def noisy():
    """A body whose tissues differ, an airway through all its slices and an arm apart from it."""
    rng = np.random.default_rng(0)
    inside = body((24, 60, 50))
    values = np.where(inside, rng.uniform(500, 900, inside.shape), rng.uniform(0, 20, inside.shape))
    values[:, 28:32, 20:24] = 3
    values[8:14, 1:5, 1:5] = 600
    return values, inside


def test_it_is_the_body_without_holes(noisy):
    values, inside = noisy
    mask = body_mask(values)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, inside)


def test_a_few_voxels_do_not_move_the_threshold(noisy):
    values, inside = noisy
    values[12, 30, 40:44] = 1e6
    np.testing.assert_array_equal(body_mask(values), inside)


def test_a_head_is_whole_though_its_skull_is_dark():
    """Scalp and brain do not touch, and the brain is the larger one."""
    rows, columns = np.indices((60, 50))
    radius = np.hypot((rows - 30) / 25, (columns - 25) / 20)
    plane = np.select([radius < 0.8, radius < 0.9, radius < 1], [700, 20, 500], 5)
    values = np.stack([plane] * 6)
    np.testing.assert_array_equal(body_mask(values), values > 5)


def test_it_takes_one_slice(noisy):
    values, inside = noisy
    np.testing.assert_array_equal(body_mask(values[12:13]), inside[12:13])


def test_nothing_is_the_body_of_an_empty_image():
    assert not body_mask(np.full((3, 8, 8), 7.0)).any()


def test_it_is_what_scikit_image_finds_in_a_real_ct():
    """But for the brightest, which are clipped here before."""
    hu = read_ct(SAMPLE / "volume-0.nii.gz").values
    bright = hu > filters.threshold_otsu(hu, nbins=256)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in bright])
    labels = measure.label(filled, connectivity=1)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    assert 0.2 < largest.mean() < 0.9
    assert (body_mask(hu) != largest).mean() < 5e-3
