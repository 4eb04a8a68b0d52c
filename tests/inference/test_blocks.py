"""Blocks against whole images, with filters that SciPy computes."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage, signal

from jax_pix2pix.inference.blocks import Field, block_sides, by_blocks

RNG = np.random.default_rng(0)


def _valid(block):
    """Three filters of three taps without padding. [1, *sides, 1] -> [1, *(sides - 6), 2]."""
    kernel = np.random.default_rng(1).normal(size=(3,) * (block.ndim - 2))
    for _ in range(3):
        image = block[0, ..., 0]
        block = signal.correlate(image, kernel, "valid", "direct")[None, ..., None]
    return np.concatenate([block, 3 * block], -1)


def _pooled(block):
    """Zero-padded filters around and between two halvings. [1, *sides, 1] -> same shape."""
    kernel = np.random.default_rng(1).normal(size=(3,) * (block.ndim - 2))

    def filtered(image):
        return np.maximum(ndimage.correlate(image, kernel, mode="constant"), 0.3)

    image = filtered(block[0, ..., 0])
    for _ in range(2):
        blocks = image.reshape([m for side in image.shape for m in (side // 2, 2)])
        image = filtered(blocks.max(tuple(range(1, blocks.ndim, 2))))
    for axis in range(image.ndim):
        image = np.repeat(image, 4, axis)
    return filtered(image)[None, ..., None]


# Outputs 0 to 3 of "pooled" need upsampled places -1 to 4, which need cells of four -2 to 2, which
# need pairs -5 to 6, which need inputs -11 to 14.
NETWORKS = {"valid": (_valid, Field(halo=3, shrink=3)), "pooled": (_pooled, Field(12, grid=4))}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("total", [(40, 64), (20, 24, 60), (8, 8), (12, 60, 16)], ids=str)
def test_blocks_give_what_the_whole_gives(network, total):
    apply, field = NETWORKS[network]
    image = RNG.normal(size=(*total, 1))
    expected = apply(image[None])[0]
    limits = {math.prod(block_sides(total, field, pixels)) for pixels in (1, 500, 2000, 10**6)}
    for pixels in limits:
        shapes = set()

        def counted(block, shapes=shapes):
            shapes.add(block.shape[1:-1])
            return apply(block)

        found = by_blocks(counted, lambda start, stop: image[start:stop], total, field, pixels)
        assert found.dtype == np.float32 and len(shapes) == 1  # compiled once
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_halo_that_is_too_small_is_seen():
    image = RNG.normal(size=(64, 64, 1))
    field = Field(8, grid=4)
    found = by_blocks(_pooled, lambda start, stop: image[start:stop], (64, 64), field, 400)
    assert np.abs(found - _pooled(image[None])[0]).max() > 1e-3


@pytest.mark.parametrize("total", [(33, 151, 151), (600, 600), (74, 522, 522), (1024, 64)], ids=str)
def test_blocks_are_no_larger_than_allowed(total):
    for field, pixels in itertools.product((Field(5, 5), Field(40, grid=8)), (2**15, 2**19)):
        if any(length % field.grid for length in total):
            continue
        sides = block_sides(total, field, pixels)
        assert all(side % field.grid == 0 for side in sides)
        smallest = [min(length, 2 * field.halo + field.grid) for length in total]
        assert math.prod(sides) <= max(pixels, math.prod(smallest))
        assert np.less_equal(smallest, sides).all() and np.less_equal(sides, total).all()
