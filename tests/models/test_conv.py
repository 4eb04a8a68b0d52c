"""Every form of the convolutions, forward and both gradients, against PyTorch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_pix2pix.models import conv

CONV = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
CONV_TRANSPOSE = {
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}


def _random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def _channels_first(x):
    return np.moveaxis(x, -1, 1)


def _torch_results(function, x, weight, g, **options):
    """-> output and gradients in channels-last order, the kernel's in PyTorch's."""
    x = torch.tensor(_channels_first(x), requires_grad=True)
    weight = torch.tensor(weight, requires_grad=True)
    y = function(x, weight, **options)
    dx, dw = torch.autograd.grad(y, (x, weight), torch.tensor(_channels_first(g)))
    return np.moveaxis(y.detach().numpy(), 1, -1), np.moveaxis(dx.numpy(), 1, -1), dw.numpy()


def _close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10 * np.abs(theirs).max())


def _check_module(module, function, to_weight, to_kernel, x, **options):
    kernel = module.init(jax.random.key(0), x)["params"]["kernel"]
    kernel = _random(*kernel.shape)
    y, pull_back = jax.vjp(lambda x, w: module.apply({"params": {"kernel": w}}, x), x, kernel)
    g = _random(*y.shape)
    dx, dw = pull_back(g)
    expected = _torch_results(function, x, to_weight(kernel), g, **options)
    _close(y, expected[0])
    _close(dx, expected[1])
    _close(dw, to_kernel(expected[2]))


def _swap(kernel_or_weight, order, ndim):
    """[k, ..., in, out] -> PyTorch's weight with the two channels in ``order`` first."""
    return np.ascontiguousarray(
        kernel_or_weight.transpose(*[ndim + o for o in order], *range(ndim))
    )


@pytest.mark.parametrize("spatial", [(8, 12), (4, 6, 8), (7, 10), (5, 4, 6)])
@pytest.mark.parametrize("channels", [(3, 5), (260, 2)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (4, 1, 1), (3, 1, 1)])
def test_conv_is_pytorchs(float64, spatial, channels, kernel, stride, padding):
    ndim = len(spatial)
    module = conv.Conv(channels[1], kernel, stride, padding, use_bias=False, dtype=jnp.float64)
    _check_module(
        module,
        CONV[ndim],
        lambda w: _swap(w, (1, 0), ndim),
        lambda w: w.transpose(*range(2, 2 + ndim), 1, 0),
        _random(2, *spatial, channels[0]),
        stride=stride,
        padding=padding,
    )


@pytest.mark.parametrize("spatial", [(4, 6), (2, 3, 4), (5, 1)])
@pytest.mark.parametrize("channels", [(3, 5), (2, 260)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1)])
def test_conv_transpose_is_pytorchs(float64, spatial, channels, kernel, stride, padding):
    ndim = len(spatial)
    module = conv.ConvTranspose(
        channels[1], kernel, stride, padding, use_bias=False, dtype=jnp.float64
    )
    _check_module(
        module,
        CONV_TRANSPOSE[ndim],
        lambda w: _swap(w, (0, 1), ndim),
        lambda w: w.transpose(*range(2, 2 + ndim), 0, 1),
        _random(2, *spatial, channels[0]),
        stride=stride,
        padding=padding,
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_block_forms_equal_native_ones(float64, ndim):
    """Both forms of each map: the platform decides which one training uses."""
    small, large = _random(2, *(3, 4, 2)[:ndim], 5), _random(2, *(6, 8, 4)[:ndim], 3)
    w = _random(*(4,) * ndim, 5, 3)
    _close(conv._halve_blocks(large, w), conv._halve_native(large, w))
    _close(conv._double_blocks(small, w), conv._double_native(small, w))
    _close(conv._correlate_blocks(small, large), conv._correlate_native(small, large))


@pytest.mark.parametrize("ndim", [2, 3])
def test_second_derivatives(float64, ndim):
    """A gradient penalty differentiates the gradient: compare with autodiff of the native form."""
    large, w = _random(1, *(4, 6, 2)[:ndim], 2), _random(*(4,) * ndim, 3, 2)

    def penalty(halve):
        def gradient(large, w):
            return jax.grad(lambda x: jnp.sum(jnp.tanh(halve(x, w))))(large)

        return jax.grad(lambda large, w: jnp.sum(gradient(large, w) ** 3), (0, 1))(large, w)

    for ours, native in zip(penalty(conv.halve), penalty(conv._halve_native), strict=True):
        _close(ours, native)


def test_bfloat16_accumulates_in_float32():
    small, large = np.ones((1, 32, 32, 4), np.float32), np.ones((1, 64, 64, 4), np.float32)
    exact = conv._correlate_blocks(small, large)
    rounded = conv._correlate_blocks(small.astype(jnp.bfloat16), large.astype(jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    # 1024 ones: a bfloat16 accumulator would stop at 256.
    np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, rtol=1e-2)
