"""A batch in parts trains as the whole batch does, in the memory of a part."""

import jax
import numpy as np
import pytest

from configs.lidc_mask2ct import get_config
from jax_pix2pix import adversarial, sharding
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.fit import lower_step
from jax_pix2pix.runs.workdir import abstract_state, build_system, check_sizes


def _config(**fields):
    """Every term of the losses that is a mean over examples, and nothing random."""
    config = get_config()
    config.steps_per_epoch = 10
    config.dtype = "float64"
    config.ema_decay = 0.9
    config.data.image_size = 16
    config.data.batch_size = 12
    config.generator.update({"width": 4, "depth": 2, "dropout": 0.0})
    config.discriminator.update({"width": 4, "strided_levels": 2, "dense_levels": 0})
    config.discriminator.spectral_norm = True
    config.loss.update({"r1_weight": 1.0, "gradient_weight": 1.0, "feature_matching_weight": 1.0})
    config.loss.ssim = "unclipped"
    config.update_from_flattened_dict(fields)
    return config


def _after_two_steps(config):
    system = build_system(config)
    rng = np.random.default_rng(0)
    source = rng.integers(0, 3, (12, 16, 16, 1)).astype(np.uint8) * 127
    batch = {"source": source, "target": rng.integers(0, 256, source.shape).astype(np.uint8)}
    state = adversarial.create_state(system, jax.random.key(0), batch)

    def two(state):
        state, _ = adversarial.train_step(system, state, batch, jax.random.key(1))
        return adversarial.train_step(system, state, batch, jax.random.key(1))

    return jax.jit(two)(state)


@pytest.mark.slow
def test_parts_equal_the_whole_batch(float64):
    whole, expected = _after_two_steps(_config())
    state, metrics = _after_two_steps(_config(accumulate=3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11), state, whole)
    assert metrics.keys() == expected.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, err_msg=name)


@pytest.mark.slow
def test_a_part_needs_the_memory_of_a_part():
    def temporaries(**fields):
        config = _config(
            dtype="float32", **{"data.batch_size": 32, "data.image_size": 32, **fields}
        )
        system, mesh = build_system(config), sharding.make_mesh(1, 32, 1)
        lowered, _ = lower_step(system, config, mesh, abstract_state(system, config))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(accumulate=8) < temporaries() / 4


@pytest.mark.slow
def test_random_parts_train(float64):
    """Dropout and augmentation are drawn anew in each part."""
    config = _config(accumulate=3, diff_augment="color", **{"generator.dropout": 0.5})
    config.discriminator.spectral_norm = False
    _, metrics = _after_two_steps(config)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"data.cache": "device", "data.context": 1}])
def test_training_traces_its_step_in_parts(fields):
    config = _config(accumulate=3, dtype="float32", **fields)
    check_sizes(build_system(config), config)


def test_a_batch_that_does_not_divide_into_parts_is_refused():
    with pytest.raises(ConfigError, match="over 1 devices in 5 accumulated parts: use a multiple"):
        sharding.make_mesh(1, 12, 1, accumulate=5)
    with pytest.raises(ConfigError, match="accumulate=0: use 1 or more"):
        build_system(_config(accumulate=0))
