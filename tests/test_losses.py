"""Losses and the learning rate against PyTorch and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from configs.lidc_mask2ct import get_config
from jax_pix2pix import losses
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.optimizer import constant_then_linear
from jax_pix2pix.workdir import build_system

LOGITS = np.array([-30.0, -1.0, 0.0, 0.5, 30.0], np.float32)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_binary_cross_entropy(label):
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.full((5,), label)
    )
    np.testing.assert_allclose(losses.binary_cross_entropy(LOGITS, label), expected, rtol=1e-6)


def test_least_squares():
    logits = jnp.array([0.0, 3.0])
    assert losses.least_squares(logits, 1.0) == (1 + 4) / 2
    assert losses.least_squares(logits, 0.0) == 9 / 2


def test_hinge_has_a_margin_for_the_discriminator_and_none_for_the_generator():
    logits = jnp.array([-2.0, 0.5, 2.0])
    np.testing.assert_allclose(losses.hinge(logits, 1.0), (3 + 0.5 + 0) / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.hinge(logits, 0.0), (0 + 1.5 + 3) / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.negative_mean(logits, 1.0), -0.5 / 3, rtol=1e-6)


def test_learning_rate_is_constant_then_linear_to_zero():
    config = get_config()
    config.update({"epochs": 200, "constant_epochs": 100, "steps_per_epoch": 7})
    rate = constant_then_linear(config)
    np.testing.assert_allclose([rate(0), rate(700)], 2e-4, rtol=1e-6)
    np.testing.assert_allclose([rate(1050), rate(1225)], [1e-4, 0.5e-4], rtol=1e-5)
    assert rate(1400) == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("system", "cyclegan", 'config.system is "cyclegan": use one of lidc_mask2ct'),
        ("loss.adversarial", "wgan", 'config.loss.adversarial is "wgan": use one of bce'),
        ("loss.ssim", "ms", 'config.loss.ssim is "ms": use one of dm_pix'),
        ("constant_epochs", 300, "constant_epochs=300 is more than epochs=200"),
        ("dtype", "float31", 'config.dtype is "float31": use one of float32, bfloat16'),
    ],
)
def test_wrong_values_are_named(field, value, message):
    config = get_config()
    *parents, name = field.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[name] = value
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        build_system(config)


@pytest.mark.parametrize("shape", [(3, 8, 9, 1), (2, 8, 9, 2), (2, 4, 5, 6, 2)])
def test_soft_dice_and_its_gradient_are_monais(float64, shape):
    rng = np.random.default_rng(0)
    fake, target = rng.random(shape), (rng.random(shape) < 0.2).astype(np.float64)
    target[..., -1] = 0  # a class that is absent

    def channels_first(x):
        return torch.tensor(np.moveaxis(x, -1, 1))

    theirs = channels_first(fake).requires_grad_()
    loss = DiceLoss(batch=True, smooth_nr=1, smooth_dr=1)(theirs, channels_first(target))
    loss.backward()
    value, gradient = jax.value_and_grad(losses.soft_dice)(fake, target)
    assert float(value) == pytest.approx(loss.item(), abs=1e-12)
    np.testing.assert_allclose(gradient, np.moveaxis(theirs.grad.numpy(), 1, -1), atol=1e-12)
    nothing = np.zeros(shape)
    assert losses.soft_dice(nothing, nothing) == 0
