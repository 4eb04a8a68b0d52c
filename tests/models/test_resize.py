"""Resizing against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_pix2pix.models.resize import adaptive_average_pool, nearest_twice, resize_linear

POOLS = {2: torch.nn.functional.adaptive_avg_pool2d, 3: torch.nn.functional.adaptive_avg_pool3d}


def _torch(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


@pytest.mark.parametrize("spatial", [(16, 16), (20, 13), (5, 31), (8, 3), (9, 10, 24), (4, 8, 17)])
def test_adaptive_pool_and_its_gradient_are_pytorchs(float64, spatial):
    x = np.random.default_rng(0).standard_normal((2, *spatial, 3))
    weights = np.random.default_rng(1).standard_normal((2, *(8,) * len(spatial), 3))

    def weighted(x):
        return (adaptive_average_pool(x, 8) * weights).sum()

    theirs = _torch(x).requires_grad_()
    pooled = POOLS[len(spatial)](theirs, 8)
    (pooled * _torch(weights)).sum().backward()
    ours = adaptive_average_pool(jnp.asarray(x), 8)
    np.testing.assert_allclose(ours, np.moveaxis(pooled.detach().numpy(), 1, -1), atol=1e-12)
    gradient = np.moveaxis(theirs.grad.numpy(), 1, -1)
    np.testing.assert_allclose(jax.grad(weighted)(jnp.asarray(x)), gradient, atol=1e-12)


def test_pool_of_bfloat16_sums_in_float32():
    """bfloat16 cannot add up the 400 numbers near 1 of this mean."""
    x = 1 + 0.01 * np.random.default_rng(0).standard_normal((1, 160, 160, 1))
    x = jnp.asarray(x, jnp.bfloat16)
    pooled = adaptive_average_pool(x, 8)
    expected = np.asarray(x, np.float64).reshape(1, 8, 20, 8, 20, 1).mean((2, 4))
    assert pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@pytest.mark.parametrize("spatial", [(3, 5), (2, 3, 4)])
def test_doubling_is_pytorchs_nearest(spatial):
    x = np.random.default_rng(0).standard_normal((2, *spatial, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(_torch(x), scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(nearest_twice(jnp.asarray(x)), np.moveaxis(theirs.numpy(), 1, -1))


SIZES = [
    ((5, 7), (9, 13)),
    ((28, 28), (42, 42)),
    ((12, 9), (5, 4)),
    ((5, 6), (1, 11)),
    ((1, 4), (7, 4)),
    ((4, 28, 28), (7, 42, 42)),
    ((6, 9, 5), (3, 5, 11)),
    ((3, 1, 4), (1, 6, 4)),
]


@pytest.mark.parametrize(("spatial", "size"), SIZES)
def test_linear_resize_and_its_gradient_are_pytorchs_with_aligned_corners(float64, spatial, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *spatial, 3))
    weights = rng.standard_normal((2, *size, 3))
    theirs = _torch(x).requires_grad_()
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    resized = torch.nn.functional.interpolate(theirs, size=size, mode=mode, align_corners=True)
    (resized * _torch(weights)).sum().backward()

    ours, pull_back = jax.vjp(lambda x: resize_linear(x, size), jnp.asarray(x))
    np.testing.assert_allclose(ours, np.moveaxis(resized.detach().numpy(), 1, -1), atol=1e-12)
    (gradient,) = pull_back(jnp.asarray(weights))
    np.testing.assert_allclose(gradient, np.moveaxis(theirs.grad.numpy(), 1, -1), atol=1e-12)


@pytest.mark.parametrize("size", [(9, 4), (3, 17), (8, 8)])
def test_linear_resize_keeps_corners_and_ramps(float64, size):
    """A ramp that is linear from corner to corner stays linear."""

    def ramp(rows, columns):
        y, x = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)
        return jnp.asarray((1 + 2 * y - 3 * x)[None, ..., None])

    np.testing.assert_allclose(resize_linear(ramp(6, 5), size), ramp(*size), atol=1e-14)


def test_linear_resize_to_the_same_size_changes_no_bit():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(resize_linear(jnp.asarray(x), (3, 5, 4)), x)
