"""Learning rates, and that all updates of a step have the same one."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import ct_pyramid_3d
from configs.lidc_mask2ct import get_config
from jax_pix2pix.optimizer import adam, constant_then_linear, constant_then_tenth


def test_learning_rate_is_constant_then_linear_to_zero():
    config = get_config()
    config.update({"epochs": 200, "constant_epochs": 100, "steps_per_epoch": 7})
    rate = constant_then_linear(config)
    np.testing.assert_allclose([rate(0), rate(700)], 2e-4, rtol=1e-6)
    np.testing.assert_allclose([rate(1050), rate(1225)], [1e-4, 0.5e-4], rtol=1e-5)
    assert rate(1400) == 0


@pytest.mark.parametrize("updates", [1, 3])
def test_a_step_of_several_updates_has_one_learning_rate(updates):
    """With a gradient of ones, Adam moves a weight by its learning rate."""
    config = ct_pyramid_3d.get_config()
    config.epochs, config.steps_per_epoch = 2, 5  # 10 steps, of which the last 2 have a tenth
    optimizer = adam(config, constant_then_tenth(config), updates)
    weight = jnp.zeros(())
    state, moved = optimizer.init(weight), []
    for _ in range(10 * updates):
        change, state = optimizer.update(jnp.ones(()), state)
        moved.append(-float(change))
    rates = np.repeat([5e-4] * 8 + [5e-5] * 2, updates)
    np.testing.assert_allclose(moved, rates, rtol=1e-4)
