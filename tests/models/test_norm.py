"""Instance norm with its activation against PyTorch, and what its derivative stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jax_pix2pix.models.conv import Conv, ConvTranspose
from jax_pix2pix.models.instance_norm import instance_norm
from jax_pix2pix.models.norm import Norm
from tests.oracle.parity import channels_last, to_torch

SHAPES = [(3, 6, 10, 4), (2, 4, 6, 5, 3)]
SLOPES = [1.0, 0.2, 0.0]


def _theirs(x, slope):
    return F.leaky_relu(F.instance_norm(x, eps=1e-5), slope)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_are_pytorchs(float64, shape, slope):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, 2, shape), rng.normal(size=shape)
    y, pull_back = jax.vjp(lambda x: instance_norm(x, slope), jnp.asarray(x))
    theirs = to_torch(x).requires_grad_()
    expected = _theirs(theirs, slope)
    expected.backward(to_torch(dy))
    np.testing.assert_allclose(y, channels_last(expected), atol=1e-12)
    np.testing.assert_allclose(pull_back(dy)[0], channels_last(theirs.grad), atol=1e-12)


@pytest.mark.parametrize("slope", SLOPES)
def test_gradient_of_the_gradient_is_pytorchs(float64, slope):
    """Gradient penalties need it."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(3, 2, SHAPES[0]), rng.normal(size=SHAPES[0])

    def energy(x):
        return (weights * instance_norm(x, slope) ** 2).sum()

    ours = jax.grad(lambda x: (jax.grad(energy)(x) ** 2).sum())(jnp.asarray(x))
    theirs = to_torch(x).requires_grad_()
    total = (to_torch(weights) * _theirs(theirs, slope) ** 2).sum()
    (first,) = torch.autograd.grad(total, theirs, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), theirs)
    np.testing.assert_allclose(ours, channels_last(second), atol=1e-10, rtol=1e-9)


def test_flat_images_have_finite_gradients():
    x = jnp.full((2, 4, 4, 3), 5.0)
    gradient = jax.grad(lambda x: (instance_norm(x, 0.2) ** 3).sum())(x)
    assert bool(jnp.isfinite(gradient).all())


def test_bfloat16_is_float32_rounded_once():
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(5, 3, (2, 32, 32, 8)), jnp.bfloat16) for _ in range(2))
    y, pull_back = jax.vjp(lambda x: instance_norm(x, 0.2), x)
    wide, wide_pull_back = jax.vjp(lambda x: instance_norm(x, 0.2), x.astype(jnp.float32))
    pairs = ((y, wide), (pull_back(dy)[0], wide_pull_back(dy.astype(jnp.float32))[0]))
    for ours, exact in pairs:
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))


def test_the_derivative_keeps_no_float32_image():
    x = jnp.ones((2, 32, 32, 8), jnp.bfloat16)
    _, pull_back = jax.vjp(lambda x: instance_norm(x, 0.2), x)
    kept = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


@pytest.mark.parametrize("kind", ["instance", "batch", "none"])
def test_slope_is_the_activations(kind):
    x = jnp.asarray(np.random.default_rng(0).normal(1, 2, (2, 8, 8, 3)), jnp.float32)
    plain, active = (
        Norm(kind, slope=slope).init_with_output(jax.random.key(0), x, train=True)[0]
        for slope in (1.0, 0.2)
    )
    np.testing.assert_allclose(active, np.where(plain > 0, plain, 0.2 * plain), atol=1e-6)
    assert (np.asarray(plain) < 0).any()


@pytest.mark.parametrize(
    ("layer", "theirs"), [(Conv, F.conv2d), (ConvTranspose, F.conv_transpose2d)]
)
def test_a_bias_before_an_instance_norm_is_idle(float64, layer, theirs):
    """PyTorch adds it and its norm removes it; here it is not added. Its gradient is 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 3))
    conv = layer(5, idle_bias=True, dtype=jnp.float64)
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape)),
        conv.init(jax.random.key(0), jnp.asarray(x))["params"],
    )

    def energy(params):
        y = instance_norm(conv.apply({"params": params}, jnp.asarray(x)), 0.2)
        return (y**3).sum(), y

    gradients, y = jax.grad(energy, has_aux=True)(params)
    order = (3, 2, 0, 1) if layer is Conv else (2, 3, 0, 1)
    kernel = torch.tensor(np.asarray(params["kernel"]).transpose(order)).requires_grad_()
    bias = torch.tensor(np.asarray(params["bias"])).requires_grad_()
    expected = _theirs(theirs(to_torch(x), kernel, bias, stride=2, padding=1), 0.2)
    (expected**3).sum().backward()
    np.testing.assert_allclose(y, channels_last(expected), atol=1e-10)
    back = np.argsort(order)
    np.testing.assert_allclose(gradients["kernel"], kernel.grad.numpy().transpose(back), atol=1e-8)
    np.testing.assert_allclose(bias.grad, 0, atol=1e-8)
    assert not np.any(gradients["bias"])
