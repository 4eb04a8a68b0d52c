"""MRI -> synthetic CT against an independent PyTorch implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs.mri2ct import get_config
from jax_pix2pix.adversarial import generate
from jax_pix2pix.runs.workdir import abstract_state
from tests.oracle import mri2ct_torch as oracle
from tests.oracle import parity


def _config(variant="", **fields):
    config = get_config(variant)
    config.generator.width = config.discriminator.width = 4
    config.update_from_flattened_dict(fields)
    return config


def _networks(config, dtype=torch.float64):
    torch.manual_seed(0)
    channels = 2 * config.data.context + 1
    return parity.networks(
        oracle.Generator(
            config.generator.width, channels, config.generator.norm, config.generator.skips
        ),
        oracle.Discriminator(config.discriminator.width, channels, config.discriminator.norm),
        dtype=dtype,
    )


def _images(config, size, batch_size):
    """A stored batch, with HU beyond the window, and its PyTorch form in float64."""
    rng = np.random.default_rng(0)
    shape = (batch_size, size, size, 2 * config.data.context + 1)
    batch = {
        "source": rng.integers(0, 65536, shape).astype(np.uint16),
        "target": rng.integers(-1500, 3400, (*shape[:3], 1)).astype(np.int16),
    }
    low, high = config.data.window_hu
    ct = 2 * (np.clip(batch["target"].astype(np.float64), low, high) - low) / (high - low) - 1
    return batch, parity.to_torch(batch["source"] / 32767.5 - 1), parity.to_torch(ct)


@pytest.mark.parametrize("variant", ["", "as_published"])
def test_parameter_counts(variant):
    config = get_config(variant)
    state = abstract_state(parity.system(config, "float32"), config)
    networks = oracle.Generator(skips=config.generator.skips), oracle.Discriminator()
    for network, module in zip((state.generator, state.discriminator), networks, strict=True):
        ours = sum(x.size for x in jax.tree.leaves(network.params))
        assert ours == sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "as_published"])
def test_float32_forward_and_losses(variant):
    """Outputs at 256 x 256, in evaluation and training, and 15 x 15 logits agree to 1e-5."""
    config = _config(variant)
    system = parity.system(config, "float32")
    generator, discriminator = _networks(config, torch.float32)
    batch, source, ct = _images(config, 256, 2)
    source, ct = source.float(), ct.float()
    state = parity.state(system, generator, discriminator, jnp.float32)
    ours_source, ours_ct = system.normalise(batch)

    with torch.no_grad():
        plain = generator.eval()(source)
    np.testing.assert_allclose(
        jax.jit(lambda x: generate(system, state.generator, x))(ours_source),
        parity.channels_last(plain),
        atol=1e-5,
    )
    real_logits = parity.apply(system.discriminator, state.discriminator, ours_source, ours_ct)
    metrics = parity.one_step(system, state, batch).metrics
    generator.train()
    expected = oracle.step(generator, discriminator, source, ct)
    assert real_logits[-1].shape == (2, 15, 15, 1)
    np.testing.assert_allclose(
        real_logits[-1], parity.channels_last(expected["real_logits"]), rtol=1e-5, atol=1e-5
    )
    parity.assert_losses(metrics, parity.pix2pix_losses(expected), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("", {}),
        ("", {"data.context": 1}),
        ("", {"generator.norm": "instance", "discriminator.norm": "instance"}),
        ("as_published", {}),
    ],
)
def test_float64_gradients(float64, variant, fields):
    """Gradients to 1e-9 of each layer's largest one, and weights and statistics after the step."""
    config = _config(variant, **fields)
    system = parity.system(config, "float64")
    generator, discriminator = _networks(config)
    batch, source, ct = _images(config, 64, 2)
    state = parity.state(system, generator, discriminator, jnp.float64)
    ours = parity.one_step(system, state, batch)
    learning_rate = float(ours.metrics["learning_rate"])
    expected = oracle.step(generator, discriminator, source, ct, learning_rate=learning_rate)
    parity.assert_losses(ours.metrics, parity.pix2pix_losses(expected), 1e-9)
    parity.assert_same_step(ours, generator, discriminator, expected)
