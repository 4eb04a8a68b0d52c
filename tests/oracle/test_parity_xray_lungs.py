"""Chest X-ray -> lung mask against an independent PyTorch implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs.xray_lungs import get_config
from jax_pix2pix.adversarial import generate
from jax_pix2pix.runs.workdir import abstract_state
from tests.oracle import parity
from tests.oracle import xray_lungs_torch as oracle


def _networks(config, dtype=torch.float64):
    torch.manual_seed(0)
    width, channels = config.generator.width, config.data.source_channels
    return parity.networks(
        oracle.Generator(width, config.generator.depth, channels, config.generator.norm),
        oracle.Discriminator(width, channels, config.discriminator.norm),
        dtype=dtype,
    )


def _config(variant, **fields):
    config = get_config(variant)
    config.generator.width = config.discriminator.width = 4
    config.update_from_flattened_dict(fields)
    return config


def _images(config, size, batch_size):
    """A stored batch, and its PyTorch form in float64, source and mask in [-1, 1]."""
    rng = np.random.default_rng(0)
    cell = size // 8
    lungs = rng.integers(0, 2, (batch_size, 8, 8, 1)).repeat(cell, 1).repeat(cell, 2)
    noise = rng.integers(0, 120, (*lungs.shape[:3], config.data.source_channels))
    batch = {"source": (120 * lungs + noise).astype(np.uint8), "target": lungs.astype(np.uint8)}
    return (
        batch,
        parity.to_torch(batch["source"] / 127.5 - 1),
        parity.to_torch(2.0 * batch["target"] - 1),
    )


@pytest.mark.parametrize("variant", ["", "as_published"])
def test_parameter_counts(variant):
    config = get_config(variant)
    config.steps_per_epoch = 1
    state = abstract_state(parity.system(config, "float32"), config)
    for network, module in zip(
        (state.generator, state.discriminator),
        (
            oracle.Generator(64, 8, config.data.source_channels, config.generator.norm),
            oracle.Discriminator(64, config.data.source_channels, config.discriminator.norm),
        ),
        strict=True,
    ):
        ours = sum(x.size for x in jax.tree.leaves(network.params))
        assert ours == sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "as_published"])
def test_float32_outputs_and_losses(variant):
    """Evaluation and training outputs, logits and losses agree to 1e-5 at full size and depth."""
    config = _config(variant)
    system = parity.system(config, "float32")
    generator, discriminator = _networks(config, torch.float32)
    batch, source, mask = _images(config, 256, 1)
    source, mask = source.float(), mask.float()
    masks = parity.dropout_masks(generator, source)
    state = parity.state(system, generator, discriminator, jnp.float32)
    ours_source, ours_mask = system.normalise(batch)

    with torch.no_grad():
        plain = generator.eval()(source)
    np.testing.assert_allclose(
        jax.jit(lambda x: generate(system, state.generator, x))(ours_source),
        parity.channels_last(plain),
        atol=1e-5,
    )
    fake = parity.apply(system.generator, state.generator, ours_source, masks=masks)
    real_logits = parity.apply(system.discriminator, state.discriminator, ours_source, ours_mask)
    metrics = parity.one_step(system, state, batch, masks).metrics
    generator.train()
    expected = oracle.step(generator, discriminator, source, mask, masks, dropout_layout="NHWC")
    np.testing.assert_allclose(fake, parity.channels_last(expected["fake"]), atol=1e-5)
    assert real_logits[-1].shape == (1, 30, 30, 1)
    np.testing.assert_allclose(
        real_logits[-1], parity.channels_last(expected["real_logits"]), rtol=1e-5, atol=1e-5
    )
    parity.assert_losses(metrics, parity.pix2pix_losses(expected), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "batch_size"), [("", 1), ("", 3), ("as_published", 1), ("as_published", 3)]
)
def test_float64_gradients(float64, variant, batch_size):
    """They agree to 1e-9 of each layer's largest gradient, over a bottleneck of one pixel."""
    config = _config(variant, **{"generator.depth": 5})
    system = parity.system(config, "float64")
    generator, discriminator = _networks(config)
    batch, source, mask = _images(config, 32, batch_size)
    masks = parity.dropout_masks(generator, source)
    state = parity.state(system, generator, discriminator, jnp.float64)
    ours = parity.one_step(system, state, batch, masks)
    learning_rate = float(ours.metrics["learning_rate"])
    expected = oracle.step(
        generator, discriminator, source, mask, masks, dropout_layout="NHWC",
        learning_rate=learning_rate,
    )  # fmt: skip
    parity.assert_losses(ours.metrics, parity.pix2pix_losses(expected), 1e-9)
    parity.assert_same_step(ours, generator, discriminator, expected)
