"""Runs the flagship's step on the PyTorch oracle's weights and dropout masks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from configs.lidc_mask2ct import get_config
from jax_pix2pix import adversarial
from jax_pix2pix.workdir import build_system
from tests.oracle import lidc_mask2ct_torch as oracle
from tests.oracle import training

SIZE, BATCH = 128, 2


def system(width, dtype, **loss):
    config = get_config()
    config.dtype = dtype
    config.steps_per_epoch = 1
    config.generator.width = config.discriminator.width = width
    config.loss.update(loss)
    return build_system(config)


def images(seed=0):
    """A stored batch with smooth content and its PyTorch form in float64."""
    rng = np.random.default_rng(seed)
    mask = 127 * rng.integers(0, 3, (BATCH, 8, 8, 1)).repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)
    ct = 120 * mask / 254 + rng.integers(0, 120, mask.shape)
    batch = {"source": mask.astype(np.uint8), "target": ct.astype(np.uint8)}

    def to_torch(stored, high):
        return torch.tensor(np.moveaxis(stored / (high / 2) - 1, -1, 1))

    return batch, to_torch(batch["source"], 254), to_torch(batch["target"], 255)


def dropout_masks(width, seed=1):
    """Keep-masks of the first three decoder levels, [n, h, w, c]."""
    rng = np.random.default_rng(seed)
    shapes = [(BATCH, 4, 4, 8 * width), (BATCH, 8, 8, 8 * width), (BATCH, 16, 16, 4 * width)]
    return [rng.random(shape) < 0.5 for shape in shapes]


def networks(width, dtype=torch.float64):
    torch.manual_seed(0)
    return oracle.Generator(width).to(dtype), oracle.Discriminator(width).to(dtype)


def _names(module):
    """Oracle parameter name -> (our layer, whether transposed)."""
    if isinstance(module, oracle.Discriminator):
        return {f"layers.{i}": (f"level_{i}", False) for i in range(4)} | {
            "layers.4": ("logits", False)
        }
    encode = {f"down.{i}": (f"encode_{i}", False) for i in range(6)}
    return encode | {f"up.{i}": (f"decode_{5 - i}", True) for i in range(6)}


def to_flax(module, values, dtype):
    """{PyTorch name: array in PyTorch's layout} -> our params, or gradients likewise."""
    params = {}
    for theirs, (ours, transposed) in _names(module).items():
        to_kernel = training.conv_transpose_kernel if transposed else training.conv_kernel
        params[ours] = {
            "kernel": jnp.asarray(to_kernel(np.asarray(values[f"{theirs}.weight"])), dtype),
            "bias": jnp.asarray(np.asarray(values[f"{theirs}.bias"]), dtype),
        }
    return params


def state(system, generator, discriminator, dtype):
    def network(module, optimizer):
        # A copy: the oracle's step changes its weights in place.
        values = {k: v.detach().numpy().copy() for k, v in module.named_parameters()}
        params = to_flax(module, values, dtype)
        return adversarial.Network(params, {}, optimizer.init(params))

    return adversarial.TrainState(
        jnp.zeros((), jnp.int32),
        network(generator, system.generator_optimizer),
        network(discriminator, system.discriminator_optimizer),
    )


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
    """The system with optimisers that note the gradients they get; -> (system, list)."""
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


def one_step(system, state, batch, masks):
    """-> (new state, metrics, D's gradients, G's gradients)."""
    noted, seen = capture_gradients(system)

    def step(state, batch):
        seen.clear()
        with feed(masks):
            new, metrics = adversarial.train_step(noted, state, batch, jax.random.key(0))
        return new, metrics, *seen

    return jax.jit(step)(state, batch)
