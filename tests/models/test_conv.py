"""Every form of the convolutions, forward and both gradients, against PyTorch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_pix2pix.models import convolution_maps as maps
from jax_pix2pix.models.conv import Conv, ConvTranspose

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
    """-> output and gradients in channels-last order, but the kernel's in PyTorch's order."""
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

    @jax.jit
    def results(x, w, g):
        y, pull_back = jax.vjp(lambda x, w: module.apply({"params": {"kernel": w}}, x), x, w)
        return y, *pull_back(g)

    g = _random(*jax.eval_shape(module.apply, {"params": {"kernel": kernel}}, x).shape)
    y, dx, dw = results(x, kernel, g)
    expected = _torch_results(function, x, to_weight(kernel), g, **options)
    _close(y, expected[0])
    _close(dx, expected[1])
    _close(dw, to_kernel(expected[2]))


def _swap(kernel_or_weight, order, ndim):
    """[k, ..., in, out] -> PyTorch's weight, the two channel axes first, in ``order``."""
    return np.ascontiguousarray(
        kernel_or_weight.transpose(*[ndim + o for o in order], *range(ndim))
    )


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [(8, 12), (4, 6, 8), (7, 10), (5, 4, 6)])
@pytest.mark.parametrize("channels", [(3, 5), (64, 32)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(4, 2, 1), (4, 1, 1), (3, 1, 1), (3, 2, 0)]
)
def test_conv_is_pytorchs(float64, spatial, channels, kernel, stride, padding):
    ndim = len(spatial)
    module = Conv(channels[1], kernel, stride, padding, use_bias=False, dtype=jnp.float64)
    _check_module(
        module,
        CONV[ndim],
        lambda w: _swap(w, (1, 0), ndim),
        lambda w: w.transpose(*range(2, 2 + ndim), 1, 0),
        _random(2, *spatial, channels[0]),
        stride=stride,
        padding=padding,
    )


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [(4, 6), (2, 3, 4), (5, 1)])
@pytest.mark.parametrize("channels", [(3, 5), (32, 64)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1)])
def test_conv_transpose_is_pytorchs(float64, spatial, channels, kernel, stride, padding):
    ndim = len(spatial)
    module = ConvTranspose(channels[1], kernel, stride, padding, use_bias=False, dtype=jnp.float64)
    _check_module(
        module,
        CONV_TRANSPOSE[ndim],
        lambda w: _swap(w, (0, 1), ndim),
        lambda w: w.transpose(*range(2, 2 + ndim), 0, 1),
        _random(2, *spatial, channels[0]),
        stride=stride,
        padding=padding,
    )


def _maps(g, small_channels=3, large_channels=5):
    """Random (large, small, kernel) for a Geometry."""
    channels = (small_channels, large_channels)
    kernel = (g.kernel,) * g.ndim + (channels if g.transposed else channels[::-1])
    return (
        _random(2, *g.size, large_channels),
        _random(2, *g.small_size, small_channels),
        _random(*kernel),
    )


FORMS = [
    ("_convolve_taps", 2, 4, 2, 1), ("_convolve_taps", 3, 3, 1, 1), ("_convolve_taps", 2, 3, 2, 0),
    ("_convolve_planes", 3, 3, 1, 1), ("_convolve_planes", 3, 4, 2, 1),
    ("_scatter_shifts", 2, 4, 2, 1), ("_scatter_shifts", 3, 4, 2, 1),
    ("_scatter_subpixel", 2, 4, 2, 1), ("_scatter_subpixel", 3, 4, 2, 1),
    ("_scatter_reversed", 2, 4, 1, 1), ("_scatter_reversed", 3, 3, 1, 0),
    ("_correlate_taps", 2, 4, 2, 1), ("_correlate_taps", 2, 4, 1, 1),
    ("_correlate_taps", 3, 3, 2, 0),
    ("_correlate_planes", 3, 3, 1, 1), ("_correlate_planes", 3, 4, 2, 1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("form", "ndim", "kernel", "stride", "padding"), FORMS)
def test_forms_equal_native_ones(float64, form, ndim, kernel, stride, padding, transposed):
    """Tests each form of each map, odd sizes too; platform and shape decide training's form."""
    even_only = form in ("_scatter_shifts", "_scatter_subpixel")
    size = (8, 6, 10)[:ndim] if even_only else (9, 6, 7)[:ndim]
    g = maps.Geometry(kernel, stride, padding, size, transposed)
    large, small, w = _maps(g)
    inputs = {"convolve": (large, w), "scatter": (small, w), "correlate": (small, large)}
    operation = form.split("_")[1]
    ours = getattr(maps, form)(*inputs[operation], g)
    _close(ours, getattr(maps, f"_{operation}_native")(*inputs[operation], g))


# Shapes of the flagship and of a 3D scale: the CPU's choice for each, against PyTorch.
@pytest.mark.parametrize(
    ("form", "operation", "g", "channels"),
    [
        ("_convolve_native", "convolve", (4, 2, 1, (64, 64), False), (128, 64)),
        ("_convolve_taps", "convolve", (4, 2, 1, (16, 16), False), (64, 64)),
        ("_convolve_planes", "convolve", (3, 1, 1, (4, 16, 16), False), (32, 32)),
        ("_scatter_subpixel", "scatter", (4, 2, 1, (64, 64), True), (128, 64)),
        ("_scatter_shifts", "scatter", (4, 2, 1, (32, 32), True), (64, 64)),
        ("_scatter_shifts", "scatter", (4, 2, 1, (64, 64), True), (64, 1)),
        ("_scatter_reversed", "scatter", (4, 1, 1, (16, 16), False), (32, 32)),
        ("_correlate_taps", "correlate", (4, 2, 1, (64, 64), True), (64, 64)),
        ("_correlate_native", "correlate", (4, 2, 1, (64, 64), False), (64, 1)),
        ("_correlate_planes", "correlate", (3, 1, 1, (4, 8, 8), False), (1, 32)),
    ],
)
def test_cpu_gets_the_form_that_was_measured(monkeypatch, form, operation, g, channels):
    large, small, w = _maps(maps.Geometry(*g), *channels)
    inputs = {"convolve": (large, w), "scatter": (small, w), "correlate": (small, large)}
    called = []
    real = getattr(maps, form)
    monkeypatch.setattr(maps, form, lambda *a: (called.append(form), real(*a))[1])
    getattr(maps, operation)(*inputs[operation], maps.Geometry(*g))
    assert called


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_second_derivatives(float64, ndim):
    """A gradient penalty needs them: compared with autodiff of the native form."""
    g = maps.Geometry(4, 2, 1, (4, 6, 2)[:ndim], transposed=False)
    large, _, w = _maps(g)

    def penalty(convolve):
        def gradient(large, w):
            return jax.grad(lambda x: jnp.sum(jnp.tanh(convolve(x, w, g))))(large)

        return jax.grad(lambda large, w: jnp.sum(gradient(large, w) ** 3), (0, 1))(large, w)

    for ours, native in zip(penalty(maps.convolve), penalty(maps._convolve_native), strict=True):
        _close(ours, native)


def test_bfloat16_accumulates_in_float32():
    g = maps.Geometry(4, 2, 1, (64, 64), transposed=True)
    small, large = np.ones((1, 32, 32, 4), np.float32), np.ones((1, 64, 64, 4), np.float32)
    exact = maps._correlate_taps(small, large, g)
    rounded = maps._correlate_taps(small.astype(jnp.bfloat16), large.astype(jnp.bfloat16), g)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, rtol=1e-2)
    # CPUs accumulate wide anyway; elsewhere, and in sums of products, the type decides.
    half = jnp.ones((2, 2), jnp.bfloat16)
    assert maps._product(half, half).dtype == jnp.float32


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("operation", ["convolve", "scatter", "correlate"])
def test_accelerators_get_native_convolutions(operation, platform):
    g = maps.Geometry(4, 2, 1, (16, 16), transposed=True)  # products on the CPU
    large, small, w = (x.astype(np.float32) for x in _maps(g, 128, 64))
    inputs = {"convolve": (large, w), "scatter": (small, w), "correlate": (small, large)}
    traced = jax.jit(lambda a, b: getattr(maps, operation)(a, b, g)).trace(*inputs[operation])
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == 1 and "dot_general" not in text
