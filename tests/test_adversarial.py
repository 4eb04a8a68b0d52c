"""The step: its order, its randomness, and that G runs forward once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.lidc_mask2ct import get_config
from jax_pix2pix import adversarial
from jax_pix2pix.workdir import abstract_state, build_system, example_batch
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def system():
    return build_system(tiny_config())


@pytest.fixture
def state(system):
    return adversarial.create_state(system, jax.random.key(0), example_batch(tiny_config()))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 3, (2, 128, 128, 1)).astype(np.uint8) * 127
    return {"source": source, "target": rng.integers(0, 256, source.shape).astype(np.uint8)}


def _calls(function, *args):
    """Module calls while a function is traced: one entry per forward pass."""
    seen = []

    def intercept(next_function, args, kwargs, context):
        if context.method_name == "__call__":
            seen.append(type(context.module).__name__)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(intercept):
        jax.eval_shape(function, *args)
    return seen


def test_generator_runs_forward_once(system, state, batch):
    calls = _calls(lambda s: adversarial.train_step(system, s, batch, jax.random.key(0)), state)
    assert calls.count("UNet") == 1
    assert calls.count("PatchGAN") == 3  # real, fake, and the fake as G sees it


def test_step_depends_on_seed_and_step_alone(system, state, batch):
    step = jax.jit(lambda s, key: adversarial.train_step(system, s, batch, key)[1]["loss_G"])
    loss = step(state, jax.random.key(0))
    assert step(state, jax.random.key(0)) == loss
    assert step(state, jax.random.key(1)) != loss
    assert step(state.replace(step=state.step + 1), jax.random.key(0)) != loss


def test_dropout_is_off_in_evaluation(system, state, batch):
    source, _ = system.normalise(batch)
    variables = {"params": state.generator.params}
    without = system.generator.clone(dropout=0.0).apply(
        variables, source, train=True, rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(adversarial.generate(system, state.generator, source), without)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_other_norms_train(norm, batch):
    config = tiny_config()
    config.generator.norm = config.discriminator.norm = norm
    system = build_system(config)
    state = adversarial.create_state(system, jax.random.key(0), example_batch(config))
    new, metrics = jax.jit(lambda s: adversarial.train_step(system, s, batch, jax.random.key(0)))(
        state
    )
    assert all(np.isfinite(v) for v in metrics.values())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state, new)
    statistics = [*jax.tree.leaves(moved.generator.batch_stats)]
    assert all(statistics) and len(statistics) == (20 if norm == "batch" else 0)


def test_batch_norm_statistics_are_pytorchs(batch):
    """Running statistics and evaluation output after one batch, against torch.nn.BatchNorm2d."""
    import torch

    from jax_pix2pix.models.norm import Norm

    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 3)).astype(np.float32)
    norm = Norm("batch")
    variables = norm.init(jax.random.key(0), x, train=False)
    _, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    ours = norm.apply({"params": variables["params"], **updates}, x, train=False)
    theirs = torch.nn.BatchNorm2d(3)
    theirs.weight.data = torch.tensor(np.asarray(variables["params"]["BatchNorm_0"]["scale"]))
    theirs(torch.tensor(x).permute(0, 3, 1, 2))
    expected = theirs.eval()(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    # PyTorch keeps the unbiased variance, Flax the biased one: 1 % of a tenth here.
    np.testing.assert_allclose(ours, expected.detach(), rtol=5e-3, atol=5e-3)


def test_bfloat16_keeps_float32_state_and_losses(batch):
    config = tiny_config()
    config.dtype = "bfloat16"
    system = build_system(config)
    state = adversarial.create_state(system, jax.random.key(0), example_batch(config))
    new, metrics = jax.jit(lambda s: adversarial.train_step(system, s, batch, jax.random.key(0)))(
        state
    )
    assert {x.dtype for x in jax.tree.leaves(new.generator.params)} == {jnp.dtype("float32")}
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
    full = build_system(tiny_config())
    _, reference = jax.jit(lambda s: adversarial.train_step(full, s, batch, jax.random.key(0)))(
        state
    )
    for name in ("loss_G", "loss_D", "l1"):
        np.testing.assert_allclose(metrics[name], reference[name], rtol=0.02)
        assert metrics[name] != reference[name]  # the computation really is in bfloat16


def test_image_size_that_does_not_halve_is_named():
    config = get_config()
    config.data.image_size = 96
    with pytest.raises(ValueError, match=r"\(96, 96\) does not halve 6 times"):
        abstract_state(build_system(config), config)
