"""Runs a system's step on a PyTorch oracle's weights, statistics and dropout masks."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from jax_pix2pix import adversarial
from jax_pix2pix.runs.workdir import build_system
from tests.oracle import ct_pyramid_torch, liver_torch, pix2pix, training


def system(config, dtype, **fields):
    """The System of a config with these fields replaced."""
    config.dtype = dtype
    config.steps_per_epoch = 1
    config.update_from_flattened_dict(fields)
    return build_system(config)


def networks(*modules, dtype=torch.float64):
    """The oracle's networks in this type, with running statistics as after training."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, training.BATCH_NORMS):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return [module.to(dtype) for module in modules]


def to_torch(x):
    """[n, *spatial, c] -> tensor [n, c, *spatial] of the same type."""
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def channels_last(x):
    """The inverse of `to_torch`, for a tensor or an array."""
    return np.moveaxis(np.asarray(x.detach() if isinstance(x, torch.Tensor) else x), 1, -1)


def dropout_masks(generator, source, seed=1):
    """Keep-masks [n, h, w, c] of the first three decoder levels, for a source [n, c, h, w]."""
    rng = np.random.default_rng(seed)
    n, _, *spatial = source.shape
    masks = []
    for level, layer in enumerate(generator.up[:3]):
        halvings = len(generator.down) - level - 1
        sides = [side >> halvings for side in spatial]
        masks.append(rng.random((n, *sides, layer.out_channels)) < 0.5)
    return masks


def _our_name(module, path):
    """The name of an oracle's layer in our networks."""
    group, _, number = path.partition(".")
    number = int(number or 0)
    if isinstance(module, PYRAMID):
        return _our_pyramid_name(module, group, number)
    if isinstance(module, pix2pix.PatchGAN) and path == f"layers.{len(module.layers) - 1}":
        return "logits"
    if isinstance(module, pix2pix.UNet):
        level = len(module.up) - 1 - number
    elif isinstance(module, liver_torch.Generator):
        level = len(module.up) - number
    else:
        level = None
    return {
        "layers": f"level_{number}",
        "norms": f"norm_{number}",
        "down": f"encode_{number}",
        "down_norms": f"encode_norm_{number}",
        "up": f"decode_{level}",
        "up_norms": f"decode_norm_{level}",
        "head": "decode_0",
    }[group]


PYRAMID = (
    ct_pyramid_torch.VolumeGenerator,
    ct_pyramid_torch.SlabGenerator,
    ct_pyramid_torch.Discriminator,
)


def _our_pyramid_name(module, group, number):
    if group == "layers" and number == len(module.layers) - 1:
        return "logits" if isinstance(module, ct_pyramid_torch.Discriminator) else "image"
    if group in ("layers", "norms"):
        return f"{group[:-1]}_{number}"
    if group in ("first", "last"):
        return {"first": "first", "last": "image"}[group]
    if group == "transposed":
        return f"double_{module.levels - 1 - number}"
    level, part = number // 2, "ab"[number % 2]
    norm = "norm_" if group.endswith("norms") else ""
    if group.startswith("down"):
        return f"encode_{level}_{norm}{part}"
    return f"decode_{module.levels - 1 - level}_{norm}{part}"


def to_flax(module, values, dtype):
    """{PyTorch name: array in PyTorch's layout} -> our params or gradients."""
    params = {}
    for name, value in values.items():
        # Spectral norm renames a weight to parametrizations.weight.original.
        path, kind = name.removesuffix(".original").replace("parametrizations.", "").rsplit(".", 1)
        layer, value = module.get_submodule(path), np.asarray(value)
        ours = params.setdefault(_our_name(module, path), {})
        if isinstance(layer, training.BATCH_NORMS):
            ours = ours.setdefault("BatchNorm_0", {})
            kind = {"weight": "scale"}.get(kind, kind)
        elif kind == "weight":
            kind = "kernel"
            transposed = isinstance(layer, torch.nn.ConvTranspose2d)
            to_kernel = training.conv_transpose_kernel if transposed else training.conv_kernel
            value = to_kernel(value)
        ours[kind] = jnp.asarray(value, dtype)
    return params


def _params(module, dtype):
    # A copy: the oracle's step changes its weights in place.
    values = {k: v.detach().numpy().copy() for k, v in module.named_parameters()}
    return to_flax(module, values, dtype)


def statistics(module, dtype):
    """Running statistics and spectral norms' vectors -> our batch_stats."""
    stats = {}
    for path, layer in module.named_modules():
        if isinstance(layer, training.BATCH_NORMS):
            moments = {"mean": layer.running_mean, "var": layer.running_var}
            moments = {k: jnp.array(v.numpy(), dtype) for k, v in moments.items()}
            stats[_our_name(module, path)] = {"BatchNorm_0": moments}
    for level, u in enumerate(getattr(module, "vectors", ())):
        stats[f"spectral_norm_{level}"] = {
            f"level_{level}/kernel/u": jnp.array(u.numpy()[None], dtype),
            f"level_{level}/kernel/sigma": jnp.ones((), dtype),  # overwritten before it is read
        }
    return stats


def state(system, generator, discriminator, dtype):
    def network(module, optimizer):
        params = _params(module, dtype)
        return adversarial.Network(params, statistics(module, dtype), optimizer.init(params))

    return adversarial.TrainState(
        jnp.zeros((), jnp.int32),
        network(generator, system.generator_optimizer),
        network(discriminator, system.discriminator_optimizer),
    )


def apply(module, network, *inputs, masks=()):
    """A network's output in training mode."""

    def forward(network, *inputs):
        variables = {"params": network.params, "batch_stats": network.batch_stats}
        rngs = {"dropout": jax.random.key(0)}
        with feed(masks):
            return module.apply(variables, *inputs, train=True, rngs=rngs, mutable=["batch_stats"])[
                0
            ]

    return jax.jit(forward)(network, *inputs)


def feed(masks):
    """A context in which dropout layers use these keep-masks, in order."""
    remaining = iter(masks)

    def intercept(next_function, args, kwargs, context):
        if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
            x = args[0]
            return x * jnp.asarray(next(remaining), x.dtype) / (1 - context.module.rate)
        return next_function(*args, **kwargs)

    return nn.intercept_methods(intercept)


def capture_gradients(system):
    """-> (the system with optimisers that record their gradients, the list of these)."""
    seen = []

    def noting(optimizer):
        def update(gradients, opt_state, params=None):
            seen.append(gradients)
            return optimizer.update(gradients, opt_state, params)

        return optax.GradientTransformation(optimizer.init, update)

    noted = dataclasses.replace(
        system,
        discriminator_optimizer=noting(system.discriminator_optimizer),
        generator_optimizer=noting(system.generator_optimizer),
    )
    return noted, seen


@dataclasses.dataclass(frozen=True)
class Step:
    state: adversarial.TrainState
    metrics: dict[str, Any]
    d_gradients: Any
    g_gradients: Any


def one_step(system, state, batch, masks=()):
    noted, seen = capture_gradients(system)

    def step(state, batch):
        seen.clear()
        with feed(masks):
            new, metrics = adversarial.train_step(noted, state, batch, jax.random.key(0))
        return new, metrics, *seen

    return Step(*jax.jit(step)(state, batch))


def pix2pix_losses(expected):
    """An oracle's losses by our names, for systems with an adversarial and an L1 loss."""
    names = {
        "loss_D": "loss_d",
        "loss_G": "loss_g",
        "G_adversarial": "adversarial",
        "l1": "l1",
    }
    return {ours: expected[theirs] for ours, theirs in names.items()}


def assert_losses(metrics, expected, tolerance):
    """Compares metrics with {our name: the oracle's value}."""
    for name, value in expected.items():
        np.testing.assert_allclose(
            metrics[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


def assert_same_step(ours, generator, discriminator, expected):
    """Compares gradients, new weights and new statistics with those of the oracle's step."""
    for network, gradients, module, theirs in (
        (ours.state.discriminator, ours.d_gradients, discriminator, expected["grads_d"]),
        (ours.state.generator, ours.g_gradients, generator, expected["grads_g"]),
    ):
        assert_trees(gradients, to_flax(module, theirs, jnp.float64))
        assert_same_network(network, module)


def assert_same_network(network, module):
    """Compares weights and statistics after the same updates."""
    # Adam makes a full step from a gradient that is only noise; kernels have no such gradients.
    params = _params(module, jnp.float64)
    assert jax.tree.structure(network.params) == jax.tree.structure(params)
    for layer in params:
        if "kernel" in params[layer]:
            np.testing.assert_allclose(
                network.params[layer]["kernel"],
                params[layer]["kernel"],
                atol=1e-8,
                rtol=0,
                err_msg=layer,
            )
    assert_trees(_comparable(network.batch_stats), _comparable(statistics(module, jnp.float64)))


def _comparable(batch_stats):
    """batch_stats without variances, as PyTorch keeps unbiased ones, and without sigma."""
    leaves = jax.tree_util.tree_leaves_with_path(batch_stats)
    names = {jax.tree_util.keystr(path): {"": value} for path, value in leaves}
    return {k: v for k, v in names.items() if not k.endswith(("['var']", "sigma']"))}


def assert_trees(ours, theirs):
    """Compares {layer: tree of arrays} to 1e-9 of each layer's largest value."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for layer in theirs:
        # Biases before an instance norm have a zero gradient, so compare on the layer's scale.
        scale = max(np.abs(x).max() for x in jax.tree.leaves(theirs[layer]))
        jax.tree.map(
            lambda a, b, layer=layer, scale=scale: np.testing.assert_allclose(
                a, b, rtol=0, atol=1e-9 * scale, err_msg=layer
            ),
            ours[layer],
            theirs[layer],
        )
