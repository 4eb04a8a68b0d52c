"""Blending of patches against sums written out in float64 and MONAI's places of patches."""

import itertools

import numpy as np
import pytest
from monai.data.utils import dense_patch_slices
from scipy.signal import windows

from jax_pix2pix.inference.sliding_window import blend, gaussian, starts

SHAPES = [  # (volume, patch)
    ((8, 16, 16), (8, 16, 16)),
    ((9, 16, 23), (4, 8, 8)),
    ((5, 12, 12), (8, 8, 8)),  # fewer slices than a patch
    ((20, 7, 30), (5, 7, 9)),
]


@pytest.mark.parametrize(("length", "patch"), [(24, 16), (16, 16), (35, 16), (19, 5), (100, 64)])
def test_patches_overlap_by_half_and_end_with_the_axis(length, patch):
    step = patch // 2
    expected = [place[0].start for place in dense_patch_slices((length,), (patch,), (step,))]
    found = starts(length, patch)
    # MONAI leaves out a last patch that adds nothing; so does the set of places.
    assert found == sorted(set(expected)) and found[-1] + patch == length


def test_weights_are_gaussian():
    for length in (7, 16):
        np.testing.assert_allclose(gaussian(length), windows.gaussian(length, length / 8))


def _written_out(source, patch, generate):
    """The same result, computed voxel by voxel of each patch."""
    total, weights = np.zeros(source.shape), np.zeros(source.shape)
    corners = itertools.product(*map(starts, source.shape, patch))
    for corner in corners:
        padded = np.empty(patch)
        for voxel in np.ndindex(patch):
            place = np.minimum(np.add(corner, voxel), np.array(source.shape) - 1)
            padded[voxel] = source[tuple(place)]
        output = generate(padded)
        for voxel in np.ndindex(patch):
            place = tuple(np.add(corner, voxel))
            if all(np.less(place, source.shape)):
                offsets = (np.array(voxel) - (np.array(patch) - 1) / 2) / np.array(patch)
                weight = np.exp(-32 * (offsets**2).sum())
                total[place] += weight * output[voxel]
                weights[place] += weight
    return total / weights


@pytest.mark.parametrize(("shape", "patch"), SHAPES, ids=str)
def test_the_mean_is_weighted_by_the_distance_from_the_middle_of_a_patch(shape, patch):
    rng = np.random.default_rng(0)
    source = rng.normal(size=shape)
    ramp = rng.normal(size=patch)  # a voxel's result depends on its place in the patch

    def generate(patches):
        assert patches.shape == (1, *patch, 1)
        return patches + np.stack([ramp, 3 * ramp], -1)

    found = blend(source[..., None], patch, generate, channels=2)
    assert found.dtype == np.float32 and found.shape == (*shape, 2)
    for channel, slope in enumerate((1, 3)):
        expected = _written_out(source, patch, lambda x, slope=slope: x + slope * ramp)
        np.testing.assert_allclose(found[..., channel], expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("shape", "patch"), SHAPES, ids=str)
def test_patches_that_agree_leave_no_seam(shape, patch):
    source = np.random.default_rng(0).uniform(-1000, 3000, (*shape, 1)).astype(np.float32)
    np.testing.assert_allclose(blend(source, patch, lambda x: x), source, rtol=1e-6)
