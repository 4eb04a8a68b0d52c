"""Changes of size against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_pix2pix.models.resize import adaptive_average_pool, nearest_twice

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
    """A mean of 400 numbers near 1 that bfloat16 cannot add up."""
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
