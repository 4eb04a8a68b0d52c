"""The networks of one scale of the pyramid: sizes, receptive fields, and blocks of a whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.scale_net import ScaleDiscriminator, SlabGenerator, VolumeGenerator


def _generator(ndim, norm="batch", dtype=jnp.float32):
    if ndim == 3:
        return VolumeGenerator(width=4, layers=4, norm=norm, dtype=dtype)
    return SlabGenerator(width=4, levels=3, channels=3, norm=norm, dtype=dtype)


def _inputs(net, size, batch_size=1, dtype=np.float32):
    rng = np.random.default_rng(0)
    channels = 1 if len(size) == 3 else net.channels
    image = rng.uniform(-1, 1, (batch_size, *size, channels))
    noise = rng.standard_normal((batch_size, *net.noise_size(size), channels))
    return jnp.asarray(image, dtype), jnp.asarray(noise, dtype)


def _initial(net, *inputs):
    """Variables as after training: signals keep their size from layer to layer."""
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)

    def trained(path, x):
        kind = path[-1].key
        if kind == "kernel":
            return x / 0.02 * np.sqrt(2 / np.prod(x.shape[:-1]))
        if kind == "mean":
            return x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype)
        return x * jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(trained, variables)


@functools.partial(jax.jit, static_argnums=0)
def _output(net, variables, *inputs):
    return net.apply(variables, *inputs, train=False)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 5, 6), (1, 1, 2), (13, 30), (2, 3)])
def test_generator_keeps_any_size_and_every_parameter_matters(size):
    net = _generator(len(size), norm="none")
    inputs = _inputs(net, size, batch_size=2)
    variables = _initial(net, *inputs)

    @jax.jit
    def gradients(params):
        def energy(params):
            y = net.apply({"params": params}, *inputs, train=True)
            return jnp.square(y).sum(), y

        return jax.grad(energy, has_aux=True)(params)

    found, y = gradients(variables["params"])
    assert y.shape == inputs[0].shape and 0 < float(jnp.abs(y).max()) <= 1
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(found))


@pytest.mark.parametrize("size", [(3, 4, 5), (16, 21)])
def test_noise_and_image_are_added(size):
    """Moving the image's values into the noise's interior changes nothing."""
    net = _generator(len(size))
    image, noise = _inputs(net, size)
    variables = _initial(net, image, noise)
    before = [(n - m) // 2 for n, m in zip(noise.shape[1:-1], size, strict=True)]
    after = [n - m - b for n, m, b in zip(noise.shape[1:-1], size, before, strict=True)]
    margins = [(0, 0), *zip(before, after, strict=True), (0, 0)]
    np.testing.assert_allclose(
        _output(net, variables, image, noise),
        _output(net, variables, jnp.zeros_like(image), noise + jnp.pad(image, margins)),
        atol=1e-6,
    )


def test_noise_sizes():
    """5 more on each side, for a volume and for a slab; a slab's is also a multiple of 8."""
    assert _generator(3).noise_size((4, 28, 30)) == (14, 38, 40)
    assert _generator(2).noise_size((28, 38)) == (40, 48)
    assert _generator(2).noise_size((141, 6)) == (152, 16)


@pytest.mark.parametrize("ndim", [2, 3])
def test_discriminator_returns_every_level_at_full_size_with_the_logits_last(ndim):
    size = (7, 9, 11)[:ndim]
    x = jnp.zeros((2, *size, 3))
    net = ScaleDiscriminator(width=4, layers=4, norm="batch")
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), x, x)
    features = _output(net, variables, x, x)
    assert [f.shape for f in features] == [(2, *size, c) for c in (4, 4, 4, 4, 1)]


def test_discriminator_does_not_look_at_the_source():
    source, other, image = np.random.default_rng(0).normal(size=(3, 1, 6, 6, 6, 1))
    net = ScaleDiscriminator(width=4, layers=2, norm="instance")
    variables = _initial(net, source, image)
    for a, b in zip(
        _output(net, variables, source, image), _output(net, variables, other, image), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def _seen(gradient):
    """The first and the last index with a nonzero gradient, along each spatial axis."""
    spatial = range(1, gradient.ndim - 1)
    found = np.nonzero(np.asarray(gradient))
    return [(int(found[axis].min()), int(found[axis].max())) for axis in spatial]


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_logit_sees_5_pixels_on_each_side(ndim):
    x = np.random.default_rng(0).normal(size=(1, *(15,) * ndim, 1)).astype(np.float32)
    net = ScaleDiscriminator(width=4, layers=4, norm="none")
    variables = _initial(net, x, x)
    middle = (0, *(7,) * ndim, 0)
    gradient = jax.jit(jax.grad(lambda y: net.apply(variables, x, y, train=False)[-1][middle]))(x)
    assert _seen(gradient) == [(2, 12)] * ndim


def test_a_voxel_sees_5_voxels_of_noise_on_each_side():
    net = _generator(3, norm="none")
    image, noise = _inputs(net, (3, 4, 5))
    variables = _initial(net, image, noise)
    gradient = jax.jit(
        jax.grad(lambda z: net.apply(variables, image, z, train=False)[0, 0, 1, 2, 0])
    )(noise)
    assert _seen(gradient) == [(0, 10), (1, 11), (2, 12)]


@pytest.mark.parametrize("low", [(6, 5, 7), (0, 0, 10)], ids=["inside", "corner"])
def test_a_block_with_a_halo_of_5_is_the_whole_volumes(float64, low):
    size, side = (14, 13, 15), 2
    net = _generator(3, dtype=jnp.float64)
    image, noise = _inputs(net, size, dtype=np.float64)
    variables = _initial(net, image, noise)
    first = [max(a - 5, 0) for a in low]
    last = [min(a + side + 5, m) for a, m in zip(low, size, strict=True)]
    # Padding is the volume's own at its ends, and elsewhere lies beyond the halo.
    window = [slice(a, b) for a, b in zip(first, last, strict=True)]
    padded = [slice(a, b + 10) for a, b in zip(first, last, strict=True)]
    block = _output(net, variables, image[:, *window], noise[:, *padded])
    inside = [slice(a - b, a - b + side) for a, b in zip(low, first, strict=True)]
    place = [slice(a, a + side) for a in low]
    whole = _output(net, variables, image, noise)
    np.testing.assert_allclose(block[:, *inside], whole[:, *place], atol=1e-12)


def test_a_block_with_a_halo_of_40_is_the_whole_slabs(float64):
    """Blocks and their halos begin where pooling windows do; a halo of 32 is not enough."""
    net = _generator(2, dtype=jnp.float64)
    _, noise = _inputs(net, (150, 6), dtype=np.float64)
    variables = _initial(net, noise, noise)

    @jax.jit
    def body(x):
        return net.apply(variables, x, train=False, method="body")

    whole = body(noise)
    apart = {
        halo: np.abs(body(noise[:, 64 - halo : 80 + halo])[:, halo:-halo] - whole[:, 64:80]).max()
        for halo in (32, 40)
    }
    assert apart[40] < 1e-12 < apart[32]


def test_unknown_norm_is_named():
    net = _generator(3, norm="layer")
    with pytest.raises(ConfigError, match='norm is "layer": use'):
        net.init(jax.random.key(0), *_inputs(net, (2, 3, 4)), train=False)
