"""Attention gates and self-attention against PyTorch with the same weights, in 2D and 3D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.attention import AttentionGate, SelfAttention

SPATIAL = [(6, 4), (4, 2, 6)]


def _inputs(spatial, *channels):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, *spatial, c)) for c in channels]


def _variables(module, *inputs, **kwargs):
    """Random variables of size about 1, as initial weights leave little of what is tested."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **kwargs))["params"]
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    return {"params": jax.tree.unflatten(structure, [rng.normal(size=x.shape) for x in leaves])}


def _channels_first(x):
    return torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)


def _convolve(params, x):
    """PyTorch's convolution of x [n, in, *spatial] with our kernel [1, ..., in, out]."""
    kernel, bias = (torch.tensor(np.asarray(params[name])) for name in ("kernel", "bias"))
    kernel = kernel.permute(-1, -2, *range(kernel.ndim - 2))
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, kernel, bias)


def _assert_same(apply, inputs, theirs, their_inputs):
    """Compares outputs, and the gradients of a weighted sum of them."""
    weights = np.random.default_rng(2).normal(size=inputs[0].shape)

    @jax.jit
    def output_and_gradients(*inputs):
        output, pull_back = jax.vjp(apply, *inputs)
        return output, pull_back(weights)

    output, gradients = output_and_gradients(*inputs)
    np.testing.assert_allclose(output, np.moveaxis(theirs.detach().numpy(), 1, -1), atol=1e-10)
    theirs.backward(torch.tensor(np.moveaxis(weights, -1, 1)))
    for ours, other in zip(gradients, their_inputs, strict=True):
        np.testing.assert_allclose(ours, np.moveaxis(other.grad.numpy(), 1, -1), atol=1e-10)


@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize("spatial", SPATIAL)
def test_gate_is_that_of_attention_u_net(float64, spatial, norm):
    skip, gate = _inputs(spatial, 6, 4)
    module = AttentionGate(norm, dtype=jnp.float64)
    variables = _variables(module, skip, gate, train=True)
    params = variables["params"]
    assert {name: layer["kernel"].shape[-2:] for name, layer in params.items()} == {
        "theta": (6, 3),
        "phi": (4, 3),
        "psi": (3, 1),
    }
    their_skip, their_gate = _channels_first(skip), _channels_first(gate)
    normalise = F.instance_norm if norm == "instance" else lambda x: x
    theta = normalise(_convolve(params["theta"], their_skip))
    phi = normalise(_convolve(params["phi"], their_gate))
    alpha = torch.sigmoid(_convolve(params["psi"], torch.relu(theta + phi)))
    assert alpha.min() < 0.4 and alpha.max() > 0.6

    def apply(skip, gate):
        return module.apply(variables, skip, gate, train=True)

    _assert_same(apply, (skip, gate), alpha * their_skip, (their_skip, their_gate))


def test_gate_of_one_channel_and_its_batch_norm():
    skip, gate = (jnp.asarray(x, jnp.float32) for x in _inputs((4, 4), 1, 2))
    module = AttentionGate("batch")
    variables = module.init(jax.random.key(0), skip, gate, train=False)
    assert variables["batch_stats"].keys() == {"norm_theta", "norm_phi"}
    output, updates = module.apply(variables, skip, gate, train=True, mutable=["batch_stats"])
    assert output.shape == skip.shape
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), variables["batch_stats"], updates["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("spatial", SPATIAL)
def test_self_attention_is_pytorchs(float64, spatial):
    (x,) = _inputs(spatial, 16)
    module = SelfAttention(dtype=jnp.float64)
    variables = _variables(module, x)
    params = variables["params"]
    channels = {name: params[name]["kernel"].shape[-1] for name in params if name != "gamma"}
    assert channels == {"query": 2, "key": 2, "value": 8, "output": 16}
    their_x = _channels_first(x)
    query, key, value = (
        _convolve(params[name], their_x).flatten(2).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    attended = attended.transpose(1, 2).reshape(2, 8, *spatial)
    theirs = their_x + float(params["gamma"]) * _convolve(params["output"], attended)
    _assert_same(lambda x: module.apply(variables, x), (x,), theirs, (their_x,))


def test_self_attention_begins_as_the_identity_and_learns():
    x = jnp.asarray(_inputs((4, 4), 8)[0], jnp.float32)
    module = SelfAttention()
    variables = jax.jit(module.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(module.apply(variables, x), x)
    gradients = jax.jit(jax.grad(lambda v: (module.apply(v, x) ** 2).sum()))(variables)["params"]
    assert gradients.pop("gamma") != 0
    assert all((g == 0).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("spatial", SPATIAL)
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(spatial):
    skip, gate = (jnp.asarray(x, jnp.bfloat16) for x in _inputs(spatial, 16, 4))
    for module, inputs, options in (
        (AttentionGate("instance", jnp.bfloat16), (skip, gate), {"train": True}),
        (SelfAttention(jnp.bfloat16), (skip,), {}),
    ):
        shapes = jax.eval_shape(
            lambda m=module, i=inputs, o=options: m.init(jax.random.key(0), *i, **o)
        )
        assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
        variables = jax.tree.map(
            lambda x: x.astype(np.float32), _variables(module, *inputs, **options)
        )
        half = module.apply(variables, *inputs, **options)
        wide = module.clone(dtype=jnp.float32).apply(
            variables, *(x.astype(jnp.float32) for x in inputs), **options
        )
        assert half.dtype == jnp.bfloat16 and wide.dtype == jnp.float32
        error = jnp.abs(half.astype(jnp.float32) - wide).max() / jnp.abs(wide).max()
        assert 0 < error < 0.05


@pytest.mark.parametrize(
    ("largest", "larger"), [((128, 128), (128, 129)), ((16, 32, 32), (33,) * 3)]
)
def test_a_map_of_too_many_pixels_is_named(largest, larger):
    def initialise(spatial):
        shape = jax.ShapeDtypeStruct((1, *spatial, 8), jnp.float32)
        jax.eval_shape(SelfAttention().init, jax.random.key(0), shape)

    initialise(largest)
    with pytest.raises(ConfigError, match=r"self_attention would weigh \d+ pixels .* use a deeper"):
        initialise(larger)


def test_weights_of_many_pixels_add_up_in_bfloat16():
    """Added in bfloat16, 4096 equal weights would stop at the sum of 256 of them."""
    x = jnp.ones((1, 64, 64, 8), jnp.bfloat16)
    module = SelfAttention(jnp.bfloat16)
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["gamma"] = jnp.ones(())
    params["value"]["bias"] = jnp.ones(4)
    params["output"]["kernel"] = jnp.full((1, 1, 4, 8), 0.25)
    np.testing.assert_array_equal(module.apply({"params": params}, x), 2)
