"""The flagship against an independent PyTorch implementation: values, losses, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs.lidc_mask2ct import get_config
from jax_pix2pix.adversarial import generate
from tests.oracle import lidc_mask2ct_torch as oracle
from tests.oracle import parity

SIZE, BATCH = 128, 2


def _system(width, dtype, **fields):
    widths = {"generator.width": width, "discriminator.width": width}
    return parity.system(get_config(), dtype, **widths, **fields)


def _networks(width, dtype=torch.float64):
    torch.manual_seed(0)
    return parity.networks(oracle.Generator(width), oracle.Discriminator(width), dtype=dtype)


def _images():
    """A stored batch with smooth content, and its PyTorch form in float64."""
    rng = np.random.default_rng(0)
    mask = 127 * rng.integers(0, 3, (BATCH, 8, 8, 1)).repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)
    ct = 120 * mask / 254 + rng.integers(0, 120, mask.shape)
    batch = {"source": mask.astype(np.uint8), "target": ct.astype(np.uint8)}
    return (
        batch,
        parity.to_torch(batch["source"] / 127 - 1),
        parity.to_torch(batch["target"] / 127.5 - 1),
    )


def test_parameter_counts():
    system = _system(64, "float32")
    image = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
    key = jax.random.key(0)
    g = jax.eval_shape(lambda x: system.generator.init(key, x, train=False), image)
    d = jax.eval_shape(lambda x: system.discriminator.init(key, x, x, train=False), image)
    assert sum(x.size for x in jax.tree.leaves(g)) == 29_235_585
    assert sum(x.size for x in jax.tree.leaves(d)) == 2_763_713


@pytest.mark.slow
def test_initial_weights_follow_the_papers_distribution():
    system = _system(16, "float32")
    image = jnp.zeros((1, 128, 128, 1))
    params = system.generator.init(jax.random.key(0), image, train=False)["params"]
    for layer in params.values():
        assert not layer["bias"].any()
    kernels = np.concatenate([layer["kernel"].ravel() for layer in params.values()])
    assert abs(kernels.std() - 0.02) < 1e-4 and abs(kernels.mean()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, pytest.param(64, marks=[pytest.mark.slow, pytest.mark.long])])
def test_float32_outputs_and_losses(width):
    """Outputs, logits before D's update and every loss agree to 1e-5."""
    system = _system(width, "float32")
    generator, discriminator = _networks(width, torch.float32)
    batch, mask, ct = _images()
    mask, ct = mask.float(), ct.float()
    masks = parity.dropout_masks(generator, mask)
    state = parity.state(system, generator, discriminator, jnp.float32)

    source, target = system.normalise(batch)
    with torch.no_grad():
        plain = generator.eval()(mask)
        logits = discriminator(mask, ct)[-1]
    np.testing.assert_allclose(
        jax.jit(lambda x: generate(system, state.generator, x))(source),
        parity.channels_last(plain),
        atol=1e-5,
    )
    ours = parity.apply(system.discriminator, state.discriminator, source, target)[-1]
    assert ours.shape == (BATCH, 14, 14, 1)
    atol = 1e-5 if width == 8 else 3e-5  # sums of 8192 products
    np.testing.assert_allclose(ours, parity.channels_last(logits), rtol=1e-5, atol=atol)

    fake = parity.apply(system.generator, state.generator, source, masks=masks)
    generator.train()
    expected = oracle.step(
        generator, discriminator, mask, ct, masks, dropout_layout="NHWC", clip=True
    )
    np.testing.assert_allclose(fake, parity.channels_last(expected["fake"]), rtol=1e-5, atol=1e-5)
    metrics = parity.one_step(system, state, batch, masks).metrics
    parity.assert_losses(metrics, _losses(expected), 1e-5)


def _losses(expected):
    return parity.pix2pix_losses(expected) | {"ssim": 1 - expected["ssim"]}


@pytest.mark.slow
@pytest.mark.parametrize("adversarial", ["bce", "lsgan", "hinge"])
@pytest.mark.parametrize("ssim", ["dm_pix", pytest.param("unclipped", marks=pytest.mark.long)])
def test_float64_gradients(float64, adversarial, ssim):
    """One update of D, then one of G, agree to 1e-9 of each layer's largest gradient."""
    width = 8
    system = _system(width, "float64", **{"loss.adversarial": adversarial, "loss.ssim": ssim})
    generator, discriminator = _networks(width)
    batch, mask, ct = _images()
    masks = parity.dropout_masks(generator, mask)
    state = parity.state(system, generator, discriminator, jnp.float64)
    ours = parity.one_step(system, state, batch, masks)
    expected = oracle.step(
        generator,
        discriminator,
        mask,
        ct,
        masks,
        dropout_layout="NHWC",
        learning_rate=float(ours.metrics["learning_rate"]),  # 2e-4 in float32
        adversarial=adversarial,
        clip=ssim == "dm_pix",
    )
    parity.assert_losses(ours.metrics, _losses(expected), 1e-9)
    parity.assert_same_step(ours, generator, discriminator, expected)
