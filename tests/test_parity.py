"""The flagship against an independent PyTorch implementation: values, losses, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_pix2pix.adversarial import generate
from tests import parity
from tests.oracle import lidc_mask2ct_torch as oracle


def _channels_last(x):
    return np.moveaxis(np.asarray(x.detach() if isinstance(x, torch.Tensor) else x), 1, -1)


def test_parameter_counts():
    system = parity.system(64, "float32")
    image = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
    key = jax.random.key(0)
    g = jax.eval_shape(lambda x: system.generator.init(key, x, train=False), image)
    d = jax.eval_shape(lambda x: system.discriminator.init(key, x, x, train=False), image)
    assert sum(x.size for x in jax.tree.leaves(g)) == 29_235_585
    assert sum(x.size for x in jax.tree.leaves(d)) == 2_763_713


def test_initial_weights_follow_the_papers_distribution():
    system = parity.system(16, "float32")
    image = jnp.zeros((1, 128, 128, 1))
    params = system.generator.init(jax.random.key(0), image, train=False)["params"]
    for layer in params.values():
        assert not layer["bias"].any()
    kernels = np.concatenate([layer["kernel"].ravel() for layer in params.values()])
    assert abs(kernels.std() - 0.02) < 1e-4 and abs(kernels.mean()) < 1e-4


@pytest.mark.parametrize("width", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_float32_outputs_and_losses(width):
    """To 1e-5: outputs, logits before and after D's update, and every loss."""
    system = parity.system(width, "float32")
    generator, discriminator = parity.networks(width, torch.float32)
    batch, mask, ct = parity.images()
    mask, ct = mask.float(), ct.float()
    masks = parity.dropout_masks(width)
    state = parity.state(system, generator, discriminator, jnp.float32)

    source, target = system.normalise(batch)
    variables = {"params": state.generator.params}
    with torch.no_grad():
        plain = generator.eval()(mask)
        logits = discriminator(mask, ct)[-1]
    np.testing.assert_allclose(
        jax.jit(lambda x: generate(system, state.generator, x))(source),
        _channels_last(plain),
        atol=1e-5,
    )
    d_variables = {"params": state.discriminator.params}
    ours = system.discriminator.apply(d_variables, source, target, train=True)[-1]
    assert ours.shape == (parity.BATCH, 14, 14, 1)
    np.testing.assert_allclose(ours, _channels_last(logits), rtol=1e-5, atol=1e-5)

    with parity.feed(masks):
        fake = system.generator.apply(
            variables, source, train=True, rngs={"dropout": jax.random.key(0)}
        )
    generator.train()
    expected = oracle.step(
        generator, discriminator, mask, ct, masks, dropout_layout="NHWC", clip=True
    )
    np.testing.assert_allclose(fake, _channels_last(expected["fake"]), rtol=1e-5, atol=1e-5)
    _, metrics, *_ = parity.one_step(system, state, batch, masks)
    _compare_losses(metrics, expected, 1e-5)


def _compare_losses(metrics, expected, tolerance):
    pairs = {
        "loss_D": expected["loss_d"],
        "loss_G": expected["loss_g"],
        "G_adversarial": expected["adversarial"],
        "l1": expected["l1"],
        "ssim": 1 - expected["ssim"],
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(
            metrics[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("adversarial", ["bce", "lsgan", "hinge"])
@pytest.mark.parametrize("ssim", ["dm_pix", "unclipped"])
def test_float64_gradients(float64, adversarial, ssim):
    """To 1e-9 of each layer's largest gradient: one D and one G update, G through the new D."""
    width = 8
    system = parity.system(width, "float64", adversarial=adversarial, ssim=ssim)
    generator, discriminator = parity.networks(width)
    batch, mask, ct = parity.images()
    masks = parity.dropout_masks(width)
    state = parity.state(system, generator, discriminator, jnp.float64)
    new, metrics, d_gradients, g_gradients = parity.one_step(system, state, batch, masks)
    expected = oracle.step(
        generator,
        discriminator,
        mask,
        ct,
        masks,
        dropout_layout="NHWC",
        learning_rate=float(metrics["learning_rate"]),  # 2e-4 in float32
        adversarial=adversarial,
        clip=ssim == "dm_pix",
    )
    _compare_losses(metrics, expected, 1e-9)
    _compare_trees(d_gradients, parity.to_flax(discriminator, expected["grads_d"], jnp.float64))
    _compare_trees(g_gradients, parity.to_flax(generator, expected["grads_g"], jnp.float64))
    # Adam's update of layers whose gradient is not noise: the weights after the step agree too.
    updated = {k: v.detach() for k, v in generator.named_parameters()}
    theirs = parity.to_flax(generator, updated, jnp.float64)
    for layer in theirs:
        np.testing.assert_allclose(
            new.generator.params[layer]["kernel"], theirs[layer]["kernel"], atol=1e-8, rtol=0
        )


def _compare_trees(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for layer in theirs:
        # Biases before an instance norm have a zero gradient: compare on the layer's scale.
        scale = max(np.abs(x).max() for x in theirs[layer].values())
        for name in theirs[layer]:
            np.testing.assert_allclose(
                ours[layer][name],
                theirs[layer][name],
                rtol=0,
                atol=1e-9 * scale,
                err_msg=f"{layer}/{name}",
            )
