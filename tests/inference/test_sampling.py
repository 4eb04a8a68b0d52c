"""Samples of pyramids against whole images that are computed as in training."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_pix2pix.adversarial import Network
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.inference import sampling
from jax_pix2pix.inference.sampling import field, output_sizes, sample
from jax_pix2pix.models.pyramid import Pyramid, inside, scale_variables
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.models.scale_net import SlabGenerator, VolumeGenerator

KEY = jax.random.key(3)
AMPLITUDES = np.array([1, 0.3, 0.2], np.float32)
SMALL = {3: 32768, 2: 12000}  # values; in 3D blocks of some 16 pixels a side, in 2D two blocks
SIZES = {3: ((4, 10, 10), (6, 14, 15), (9, 24, 26)), 2: ((16, 16), (40, 50), (102, 118))}


def _net(dimensions, **options):
    if dimensions == 3:
        return VolumeGenerator(width=8, **options)
    return SlabGenerator(**{"width": 3, "channels": 2, "levels": 2, **options})


def _run(dimensions, norm="batch"):
    """(config, system, Network), weights and statistics drawn, and z_rec [1, *noise_size, c]."""
    pyramid = Pyramid(_net(dimensions, norm=norm), SIZES[dimensions])
    rng = np.random.default_rng(0)
    shape = (1, *pyramid.net.noise_size(pyramid.sizes[0]), pyramid.net.channels)
    z_rec = jnp.asarray(rng.normal(size=shape), jnp.float32)
    rngs = {"params": KEY, "noise": KEY}
    variables = jax.eval_shape(lambda: pyramid.init(rngs, z_rec, train=False))

    def draw(path, leaf):
        if leaf.ndim > 1:
            scale = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.normal(scale=scale, size=leaf.shape), jnp.float32)
        positive = path[-1].key in ("scale", "var")
        low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, dict(variables))
    frozen = drawn["frozen"] | {"amplitudes": jnp.asarray(AMPLITUDES)}
    network = Network(drawn["params"], drawn.get("batch_stats", {}), None, frozen=frozen)
    config = ConfigDict({"pyramid": {"dimensions": dimensions}})
    return config, types.SimpleNamespace(generator=pyramid), network, z_rec


def _as_volume(image):
    """[*size, c] -> [d, h, w]."""
    image = np.asarray(image)
    return image[..., 0] if image.ndim == 4 else np.moveaxis(image, -1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_reconstructions_are_those_of_the_pyramid_whatever_the_blocks(dimensions, norm):
    config, system, network, z_rec = _run(dimensions, norm)
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    variables["frozen"] = network.frozen
    whole = jax.jit(lambda z: system.generator.apply(variables, z, train=False)[0])(z_rec)
    expected = np.clip(_as_volume(whole), -1, 1)
    assert expected.std() > 0.05
    atol = {"batch": 1e-4, "instance": 5e-4}[norm]  # almost flat maps are divided by little
    for block_values in (SMALL[dimensions], 10**8):
        found = sample(
            config, system, network, KEY, reconstruct=z_rec[0], block_values=block_values
        )
        assert found.dtype == np.float32 and found.flags.owndata
        np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("size", [None, "other"])
def test_samples_do_not_depend_on_the_blocks(dimensions, size):
    config, system, network, _ = _run(dimensions)
    size = size and ((21, 30, 20), (90, 133))[dimensions == 2]
    whole = sample(config, system, network, KEY, size, block_values=10**8)
    blocks = sample(config, system, network, KEY, size, block_values=SMALL[dimensions])
    assert whole.shape[-2:] == (size or system.generator.sizes[-1])[-2:]
    np.testing.assert_allclose(blocks, whole, atol=1e-4)
    assert np.abs(blocks - whole).mean() < 1e-5
    other = sample(config, system, network, jax.random.key(4), size, block_values=10**8)
    assert np.abs(other - whole).mean() > 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_from_a_scale_on(dimensions):
    """With noise of amplitude 0, it is one scale on the image resized to the scale before."""
    config, system, network, _ = _run(dimensions)
    network.frozen["amplitudes"] = jnp.zeros(3)
    rng = np.random.default_rng(1)
    volume = rng.uniform(-1, 1, (7, 30, 31))
    found = sample(config, system, network, KEY, from_scale=2, image=volume)

    net, (*_, before, last) = system.generator.net, system.generator.sizes
    shape = before if dimensions == 3 else (net.channels, *before)  # slices are channels
    coarser = resize_linear(jnp.asarray(volume[None, ..., None], jnp.float32), shape)
    coarser = coarser if dimensions == 3 else jnp.moveaxis(coarser[..., 0], 1, -1)
    upsampled = resize_linear(coarser, last)
    noise = jnp.zeros((1, *net.noise_size(last), net.channels))
    own = net.apply(scale_variables(network)[2], upsampled, noise, train=False)
    expected = np.clip(_as_volume((upsampled + own)[0]), -1, 1)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("border_noise", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_noise_ends_where_that_of_training_does(dimensions, border_noise):
    config, system, network, _ = _run(dimensions)
    net, size = system.generator.net, (6, 14, 15)[-dimensions:]
    system = types.SimpleNamespace(generator=Pyramid(net, (size,), border_noise))
    network = network.replace(frozen={"scales": {}, "amplitudes": jnp.ones(1)})
    total = net.noise_size(size)
    everywhere = tuple(slice(0, side) for side in total)
    noise = sampling._drawn(
        jax.random.fold_in(KEY, 0), np.float32(1), (*total, net.channels), everywhere
    )(0, total[0])
    if not border_noise:
        noise = noise * inside(size, total)
    image = jnp.zeros((1, *size, net.channels))
    (expected,) = net.apply(scale_variables(network)[0], image, noise[None], train=False)
    found = sample(config, system, network, KEY)
    np.testing.assert_allclose(found, _as_volume(expected), atol=2e-5)


def test_noise_is_normal_and_of_its_plane():
    middle = (slice(2, 38), slice(5, 50), slice(0, 55))
    inner = sampling._drawn(KEY, np.float32(0.5), (40, 50, 60, 2), middle)
    everywhere = tuple(slice(0, side) for side in (40, 50, 60))
    planes = sampling._drawn(KEY, np.float32(0.5), (40, 50, 60, 2), everywhere)
    every = planes(0, 40)
    masked = np.zeros_like(every)
    masked[middle] = every[middle]
    for start, stop in ((0, 40), (0, 2), (1, 9), (36, 40), (38, 40)):
        np.testing.assert_array_equal(inner(start, stop), masked[start:stop])
    assert every.shape == (40, 50, 60, 2) and every.dtype == np.float32
    np.testing.assert_array_equal(every[17:23], planes(17, 23))
    assert abs(every.mean()) < 0.005 and abs(every.std() - 0.5) < 0.005
    correlation = np.corrcoef(every.reshape(40, -1)) - np.eye(40)
    assert np.abs(correlation).max() < 0.06


@pytest.mark.parametrize("new", [(9, 13), (4, 30), (1, 1)])
def test_planes_are_those_of_resize_linear(new):
    image = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    expected = np.asarray(resize_linear(image[None], new))[0]
    np.testing.assert_allclose(sampling._resized(image, new), expected, atol=1e-6)
    for start in range(new[0]):
        found = sampling._resized(image, new, start, start + 1)
        np.testing.assert_allclose(found, expected[start : start + 1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("net", [VolumeGenerator(width=1), *(_net(2, levels=k) for k in (1, 2, 3))])
def test_the_halo_is_the_networks_reach(net):
    """A NaN in the input makes all outputs NaN that depend on it; each place of a cell is tried."""
    volume = isinstance(net, VolumeGenerator)
    reach = field(net)
    side, shape = (31, (1, 13, 13, 31, 1)) if volume else (184, (1, 8, 184, net.channels))
    net = net.clone(norm="none", width=1)
    x = jnp.ones(shape)
    variables = net.init(KEY, x, train=False, method="body")
    body = jax.jit(lambda x: net.apply(variables, x, train=False, method="body"))
    first = side // 2 // reach.grid * reach.grid
    furthest = 0
    for place in range(first, first + reach.grid):
        middle = tuple(n // 2 for n in shape[1:-2])
        spoiled = np.isnan(body(x.at[(0, *middle, place)].set(jnp.nan)))
        where = np.flatnonzero(spoiled.any((*range(spoiled.ndim - 2), -1))) + reach.shrink
        cells = np.abs(where // reach.grid - first // reach.grid)
        furthest = max(furthest, cells.max() * reach.grid)
    assert furthest == reach.halo


def test_sizes_shrink_in_proportion():
    trained = ((4, 28, 28), (10, 63, 63), (23, 141, 141))
    assert output_sizes(trained, (23, 141, 141)) == list(trained)
    assert output_sizes(trained, (46, 282, 70)) == [(8, 56, 14), (20, 126, 31), (46, 282, 70)]
    assert output_sizes(trained, (2, 1, 1))[0] == (1, 1, 1)


def test_refusals(monkeypatch):
    config, system, network, z_rec = _run(3)
    for scale in (-1, 3):
        with pytest.raises(ConfigError, match=f"from_scale={scale}: use 0 to 2"):
            sample(config, system, network, KEY, from_scale=scale, image=np.zeros((4, 4, 4)))
    with pytest.raises(ConfigError, match="leave size out"):
        sample(config, system, network, KEY, (18, 48, 52), reconstruct=z_rec[0])
    config, system, network, _ = _run(3, "instance")
    monkeypatch.setattr(sampling, "WHOLE_VALUES", 8 * 14 * 20 * 20)  # that of scale 0
    message = "a scale of 6 x 14 x 15 at once, which has 9600 pixels .* above 5600: use a smaller"
    with pytest.raises(ConfigError, match=message):
        sample(config, system, network, KEY)
