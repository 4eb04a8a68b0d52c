"""The same networks in 2D and 3D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import leaky_relu
from jax_pix2pix.models.norm import Norm
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet


@pytest.mark.parametrize("spatial", [(16, 32), (16, 8, 24)])
def test_unet_keeps_the_shape_and_every_parameter_matters(spatial):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *spatial, 3)), jnp.float32)
    net = UNet(width=3, depth=2, out_channels=2, norm="none", dropout_levels=1)
    params = net.init(jax.random.key(0), x, train=False)
    y = net.apply(params, x, train=False)
    assert y.shape == (2, *spatial, 2) and float(jnp.abs(y).max()) <= 1
    gradients = jax.grad(lambda p: jnp.sum(net.apply(p, x, train=False)[..., 0] ** 2))(params)
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("spatial", [(64, 48), (32, 32, 40)])
def test_patchgan_returns_every_level_with_the_logits_last(spatial):
    x = jnp.zeros((1, *spatial, 1))
    net = PatchGAN(width=2)
    params = net.init(jax.random.key(0), x, x, train=False)
    features = net.apply(params, x, x, train=False)
    channels = [2, 4, 8, 16, 1]
    sizes = [
        [m // 2 for m in spatial],
        [m // 4 for m in spatial],
        [m // 8 for m in spatial],
        [m // 8 - 1 for m in spatial],
        [m // 8 - 2 for m in spatial],
    ]
    assert [f.shape for f in features] == [
        (1, *size, c) for size, c in zip(sizes, channels, strict=True)
    ]


def test_a_logit_sees_70_pixels():
    """Receptive field of the middle logit, by its gradient with respect to the image."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 128, 128, 1)), jnp.float32)
    net = PatchGAN(width=2, norm="none")  # an instance norm sees the whole image
    params = net.init(jax.random.key(0), x, x, train=False)
    gradient = jax.grad(lambda y: net.apply(params, x, y, train=False)[-1][0, 7, 7, 0])(x)
    rows = np.flatnonzero(np.abs(gradient[0, :, :, 0]).sum(1))
    assert rows.max() - rows.min() + 1 == 70


def test_leaky_relu_has_the_slope_at_zero():
    gradient = jax.vmap(jax.grad(leaky_relu))(jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(gradient, [0.2, 0.2, 1.0])


def test_unknown_norm_is_named():
    with pytest.raises(ConfigError, match='norm is "layer": use'):
        Norm("layer").init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)
