"""CT -> liver mask against an independent PyTorch implementation, in 2D and 3D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import liver, liver_3d
from jax_pix2pix.adversarial import generate
from jax_pix2pix.runs.workdir import abstract_state
from tests.oracle import liver_torch as oracle
from tests.oracle import parity
from tests.oracle.training import unmoved

CASES = {  # {name: (config, variant, fields)}
    "clip": (liver, "", {}),
    "spectral": (liver, "", {"discriminator.constraint": "spectral"}),
    "as_published": (liver, "as_published", {}),
    "tumour": (liver, "tumour", {"loss.dice_weight": 0.0}),
    "3d": (liver_3d, "", {"discriminator.constraint": "spectral"}),
    "3d_tumour_clip": (liver_3d, "tumour", {"loss.dice_weight": 0.0}),
}


def _config(name, width):
    module, variant, fields = CASES[name]
    config = module.get_config(variant)
    config.generator.width = config.discriminator.width = width
    config.update_from_flattened_dict(fields)
    return config


def _networks(config, dtype=torch.float64):
    torch.manual_seed(0)
    classes, ndim = config.generator.classes, 3 if config.data.depth else 2
    published = config.generator.output == "relu"
    critic = oracle.Critic(
        config.discriminator.width, classes, ndim, config.discriminator.constraint
    )
    for u, layer in zip(critic.vectors, critic.layers, strict=False):
        u.normal_()  # far from the singular vectors, as in our start
        # Flax adds 1e-12 to a squared norm and PyTorch does not: 1e-9 for the smallest kernels.
        layer.parametrizations.weight.original.data *= 5
    generator = oracle.Generator(config.generator.width, classes, ndim, as_published=published)
    return parity.networks(generator, critic, dtype=dtype)


def _images(config):
    """A stored batch in HU and labels, and its PyTorch form in float64: [-1, 1] and [0, 1]."""
    rng = np.random.default_rng(0)
    shape = (2, 2, 4, 2, 1) if config.data.depth else (2, 4, 6, 1)
    labels = rng.integers(0, 3, shape)
    for axis in range(1, len(shape) - 1):
        labels = labels.repeat(8, axis)
    hu = (150 * rng.standard_normal(labels.shape) + 60 * labels).astype(np.int16)
    classes = config.generator.classes
    masks = labels == np.arange(classes) if classes > 1 else labels > 0
    windowed = np.clip(hu, -200, 300)
    return (
        {"source": hu, "target": labels.astype(np.uint8)},
        parity.to_torch((windowed + 200) / 250 - 1),
        parity.to_torch(masks.astype(np.float64)),
    )


def _step(config, generator, critic, source, mask, learning_rate=2e-4):
    return oracle.step(
        generator,
        critic,
        source,
        mask,
        as_published=config.loss.critic == "minimise",
        learning_rate=learning_rate,
    )


def _losses(expected):
    return {
        "loss_D": expected["loss_d"],
        "loss_G": expected["loss_g"],
        "feature_distance": expected["distance_g"],
        "l1": expected["l1"],
    }


@pytest.mark.parametrize("name", CASES)
def test_parameter_counts(name):
    """They are compared at the config's own width."""
    config = _config(name, 64)
    state = abstract_state(parity.system(config, "float32"), config)
    for network, module in zip(
        (state.generator, state.discriminator), _networks(config), strict=True
    ):
        ours = sum(x.size for x in jax.tree.leaves(network.params))
        assert ours == sum(p.numel() for p in module.parameters())


def _slow_in_3d(names):
    return [pytest.param(x, marks=[pytest.mark.slow] * x.startswith("3d")) for x in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", _slow_in_3d(["spectral", "as_published", "tumour", "3d"]))
def test_float32_outputs_and_losses(name):
    """Evaluation and training outputs, pooled features and losses agree to 1e-5."""
    config = _config(name, 4)
    system = parity.system(config, "float32")
    generator, critic = _networks(config, torch.float32)
    batch, source, mask = _images(config)
    source, mask = source.float(), mask.float()
    state = parity.state(system, generator, critic, jnp.float32)
    ours_source, ours_mask = system.normalise(batch)

    with torch.no_grad():
        plain = generator.eval()(source)
    np.testing.assert_allclose(
        jax.jit(lambda x: generate(system, state.generator, x))(ours_source),
        parity.channels_last(plain),
        atol=1e-5,
    )
    fake = parity.apply(system.generator, state.generator, ours_source)
    maps = parity.apply(system.discriminator, state.discriminator, ours_source, ours_mask)
    metrics = parity.one_step(system, state, batch).metrics
    with torch.no_grad():
        expected_maps = unmoved(critic, source, mask)
    expected = _step(config, generator.train(), critic, source, mask)
    np.testing.assert_allclose(fake, parity.channels_last(expected["fake"]), atol=1e-5)
    for ours, theirs in zip(maps, expected_maps, strict=True):
        np.testing.assert_allclose(ours, parity.channels_last(theirs), rtol=1e-5, atol=1e-5)
    parity.assert_losses(metrics, _losses(expected), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", _slow_in_3d(CASES))
def test_float64_gradients(float64, name):
    """One update of the critic, then one of G, agree to 1e-9 of each layer's largest gradient."""
    config = _config(name, 4)
    system = parity.system(config, "float64")
    generator, critic = _networks(config)
    batch, source, mask = _images(config)
    state = parity.state(system, generator, critic, jnp.float64)
    ours = parity.one_step(system, state, batch)
    learning_rate = float(ours.metrics["learning_rate"])  # 2e-4 in float32
    expected = _step(config, generator, critic, source, mask, learning_rate)
    parity.assert_losses(ours.metrics, _losses(expected), 1e-9)
    parity.assert_same_step(ours, generator, critic, expected)
