"""The same networks in 2D and 3D."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.activation import leaky_relu
from jax_pix2pix.models.norm import Norm
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.models.unet import UNet


def _initial(net, *inputs):
    return jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), *inputs)


def _output(net, variables, *inputs):
    return jax.jit(functools.partial(net.apply, train=False))(variables, *inputs)


@pytest.mark.parametrize("spatial", [(16, 32), (16, 8, 24)])
def test_unet_keeps_the_shape_and_every_parameter_matters(spatial):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *spatial, 3)), jnp.float32)
    net = UNet(width=3, depth=2, out_channels=2, norm="none", dropout_levels=1)
    params = _initial(net, x)

    def energy(params):
        y = net.apply(params, x, train=False)
        return jnp.sum(y[..., 0] ** 2), y

    gradients, y = jax.jit(jax.grad(energy, has_aux=True))(params)
    assert y.shape == (2, *spatial, 2) and float(jnp.abs(y).max()) <= 1
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("spatial", [(64, 48), (32, 32, 40)])
def test_patchgan_returns_every_level_with_the_logits_last(spatial):
    x = jnp.zeros((1, *spatial, 1))
    net = PatchGAN(width=2)
    features = _output(net, _initial(net, x, x), x, x)
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
    """The receptive field of the middle logit, from its gradient with respect to the image."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 128, 128, 1)), jnp.float32)
    net = PatchGAN(width=2, norm="none")  # an instance norm sees the whole image
    params = _initial(net, x, x)
    gradient = jax.jit(jax.grad(lambda y: net.apply(params, x, y, train=False)[-1][0, 7, 7, 0]))(x)
    rows = np.flatnonzero(np.abs(gradient[0, :, :, 0]).sum(1))
    assert rows.max() - rows.min() + 1 == 70


def test_leaky_relu_has_the_slope_at_zero():
    gradient = jax.vmap(jax.grad(leaky_relu))(jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(gradient, [0.2, 0.2, 1.0])


def test_unknown_norm_is_named():
    with pytest.raises(ConfigError, match='norm is "layer": use'):
        Norm("layer").init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)


def _leaves(gradients):
    return {
        jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(gradients)
    }


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [(16, 8), (8, 16, 8)])
@pytest.mark.parametrize(
    "options",
    [
        {"skips": False},
        {"attention_gates": True},
        {"self_attention": 1},
        {"self_attention": 3, "attention_gates": True},
    ],
    ids=str,
)
def test_optional_parts_of_the_unet_keep_its_shape_and_matter(spatial, options):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *spatial, 3)), jnp.float32)
    net = UNet(width=8, depth=3, norm="none", dropout_levels=0, **options)
    params = _initial(net, x)
    names = set(params["params"])
    level = options.get("self_attention", 0)
    assert {"gate_0", "gate_1"} & names == (
        {"gate_0", "gate_1"} if "attention_gates" in options else set()
    )
    assert ("self_attention" in names) == bool(level)
    if level:
        channels = params["params"]["self_attention"]["output"]["kernel"].shape[-1]
        assert channels == params["params"][f"encode_{level - 1}"]["kernel"].shape[-1]
        params["params"]["self_attention"]["gamma"] = jnp.ones(())
    decoded = params["params"]["decode_1"]["kernel"].shape[-2]
    assert decoded == (16 if "skips" in options else 32)  # 2 * width, plus as many from a skip

    def energy(params):
        y = net.apply(params, x, train=False)
        return jnp.sum(y**2), y

    gradients, y = jax.jit(jax.grad(energy, has_aux=True))(params)
    assert y.shape == (2, *spatial, 1) and float(jnp.abs(y).max()) <= 1
    # A constant offset per query changes no softmax, so a key's bias has no gradient but rounding.
    without = {k for k, g in _leaves(gradients).items() if not (g != 0).any()}
    assert without <= {"['params']['self_attention']['key']['bias']"}


def test_without_skips_nothing_passes_the_bottleneck():
    """A bottleneck whose kernel and bias are 0 leaves an image that the input does not change."""
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    outputs = {}
    for skips in (True, False):
        net = UNet(width=4, depth=2, norm="none", dropout_levels=0, skips=skips)
        params = _initial(net, x)["params"]
        params["encode_1"] = jax.tree.map(jnp.zeros_like, params["encode_1"])
        outputs[skips] = net.apply({"params": params}, x, train=False)
    assert (outputs[False] == 0).all() and (outputs[True] != 0).any()


def test_a_closed_gate_is_no_skip():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    net = UNet(width=4, depth=2, norm="none", dropout_levels=0, attention_gates=True)
    params = _initial(net, x)["params"]
    params["encode_1"] = jax.tree.map(jnp.zeros_like, params["encode_1"])
    assert (net.apply({"params": params}, x, train=False) != 0).any()
    params["gate_0"]["psi"]["bias"] = jnp.full(1, -jnp.inf)
    assert (net.apply({"params": params}, x, train=False) == 0).all()


def test_gates_need_skips_and_self_attention_a_level_that_is_there():
    x = jnp.zeros((1, 16, 16, 1))

    def initialise(**options):
        UNet(width=2, depth=3, **options).init(jax.random.key(0), x, train=False)

    with pytest.raises(ConfigError, match=r"attention_gates need config\.generator\.skips"):
        initialise(skips=False, attention_gates=True)
    for level in (4, -1):
        with pytest.raises(
            ConfigError, match=f"self_attention is {level}: use 0, or a level up to 3"
        ):
            initialise(self_attention=level)


@pytest.mark.slow
@pytest.mark.parametrize(("spatial", "scales"), [((64, 48), 3), ((16, 24, 16), 2)])
def test_scales_are_networks_that_see_smaller_images(spatial, scales):
    source, image = np.random.default_rng(0).uniform(-1, 1, (2, 2, *spatial, 1)).astype(np.float32)
    net = PatchGAN(width=2, strided_levels=2, dense_levels=0, norm="none", scales=scales)
    params = _initial(net, source, image)["params"]
    features = _output(net, {"params": params}, source, image)
    assert [type(level) for level in features] == [tuple] * 3
    sides = np.array([spatial[0] // 2**scale for scale in range(scales)])
    assert [[x.shape[1] for x in level] for level in features] == [
        [*(sides // 2)], [*(sides // 4)], [*(sides // 4 - 1)]
    ]  # fmt: skip
    # Each is the single network with its weights, on means over 2**scale pixels per side.
    single = net.clone(scales=1)
    for scale in range(scales):
        prefix = f"scale_{scale}_"
        alone = {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
        expected = _output(single, {"params": alone}, source, image)
        for level, other in zip(features, expected, strict=True):
            np.testing.assert_allclose(level[scale], other, atol=1e-6)
        source, image = (
            x.reshape(2, *[y for m in x.shape[1:-1] for y in (m // 2, 2)], 1).mean(
                tuple(range(2, 2 * x.ndim - 3, 2))
            )
            for x in (source, image)
        )


@pytest.mark.parametrize("spatial", [(16, 16), (16, 16, 16)])
def test_spectral_norm_divides_each_kernel_by_its_largest_singular_value(float64, spatial):
    source, image = np.random.default_rng(0).uniform(-1, 1, (2, 2, *spatial, 1))
    options = {"width": 4, "strided_levels": 2, "dense_levels": 0, "norm": "none"}
    net = PatchGAN(**options, spectral_norm=True, dtype=jnp.float64)
    variables = _initial(net, source, image)
    params, stats = variables["params"], variables["batch_stats"]

    @jax.jit
    def iterate(stats):
        variables = {"params": params, "batch_stats": stats}
        features, updates = net.apply(variables, source, image, train=True, mutable=["batch_stats"])
        return features, updates["batch_stats"]

    for _ in range(300):
        features, stats = iterate(stats)
    divided = {}
    for name in ("level_0", "level_1", "logits"):
        kernel = np.asarray(params[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        assert stats[f"spectral_{name}"][f"{name}/kernel/sigma"] == pytest.approx(largest, rel=1e-6)
        divided[name] = {"kernel": kernel / largest, "bias": params[name]["bias"]}
    plain = PatchGAN(**options, dtype=jnp.float64)
    expected = _output(plain, {"params": divided}, source, image)
    for a, b in zip(features, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
    # Evaluation leaves the estimates alone.
    evaluated = {"params": params, "batch_stats": stats}
    evaluate = jax.jit(functools.partial(net.apply, train=False, mutable=["batch_stats"]))
    _, updates = evaluate(evaluated, source, image)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], stats)


@pytest.mark.parametrize(
    ("options", "side", "largest_that_fails"),
    [
        ({"strided_levels": 3, "dense_levels": 1}, 24, 23),
        ({"strided_levels": 4, "dense_levels": 0}, 32, 31),
        ({"strided_levels": 2, "dense_levels": 0, "scales": 2}, 16, 15),
    ],
)
def test_a_patchgan_that_leaves_no_logits_is_named(options, side, largest_that_fails):
    def logits(side):
        x = jnp.zeros((1, side, 64, 1))
        net = PatchGAN(width=1, norm="none", **options)
        return jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, x, train=False))[0]

    assert min(x.size for x in jax.tree.leaves(logits(side)[-1])) > 0
    with pytest.raises(
        ConfigError, match=rf"leaves no logits of images of \({largest_that_fails}, 64"
    ):
        logits(largest_that_fails)


def test_no_scale_is_named():
    x = jnp.zeros((1, 64, 64, 1))
    with pytest.raises(ConfigError, match=r"0 scales.* use at least one scale"):
        PatchGAN(width=1, scales=0).init(jax.random.key(0), x, x, train=False)
