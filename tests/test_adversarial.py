"""The step: its order, its randomness, and that G runs forward once."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.lidc_mask2ct import get_config
from jax_pix2pix import adversarial, fit, sharding
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.workdir import abstract_state, build_system
from tests.tiny import tiny_config


def _small(**fields):
    """16-pixel images, a U-Net of two levels and a PatchGAN of three."""
    config = tiny_config()
    config.data.image_size = 16
    config.data.batch_size = 4
    config.generator.depth = 2
    config.discriminator.strided_levels = 2
    config.discriminator.dense_levels = 0
    config.loss.ssim_weight = 0.0
    config.update_from_flattened_dict(fields)
    return config


def _small_batch(step=0):
    rng = np.random.default_rng(step)
    source = rng.integers(0, 3, (4, 16, 16, 1)).astype(np.uint8) * 127
    return {"source": source, "target": rng.integers(0, 256, source.shape).astype(np.uint8)}


@pytest.fixture(scope="module")
def system():
    return build_system(_small())


@pytest.fixture(scope="module")
def state(system):
    return _initial(system)


def _initial(system):
    return jax.jit(lambda: adversarial.create_state(system, jax.random.key(0), _small_batch()))()


@pytest.fixture(scope="module")
def batch():
    return _small_batch()


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
    assert calls.count("PatchGAN") == 2  # real and fake at once, and the fake as G sees it


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
    system = build_system(_small(**{"generator.norm": norm, "discriminator.norm": norm}))
    state = _initial(system)
    new, metrics = jax.jit(lambda s: adversarial.train_step(system, s, batch, jax.random.key(0)))(
        state
    )
    assert all(np.isfinite(v) for v in metrics.values())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state, new)
    statistics = [*jax.tree.leaves(moved.generator.batch_stats)]
    assert all(statistics) and len(statistics) == (4 if norm == "batch" else 0)


def test_batch_norm_statistics_are_pytorchs():
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


@pytest.mark.slow
def test_bfloat16_keeps_float32_state_and_losses(batch):
    ssim = {"loss.ssim_weight": 5.0}
    system = build_system(_small(dtype="bfloat16", **ssim))
    state = _initial(system)
    new, metrics = jax.jit(lambda s: adversarial.train_step(system, s, batch, jax.random.key(0)))(
        state
    )
    assert {x.dtype for x in jax.tree.leaves(new.generator.params)} == {jnp.dtype("float32")}
    dtypes = {name: x.dtype for name, x in metrics.items()}
    assert [dtypes.pop(f"skipped_{network}") for network in "DG"] == 2 * [jnp.dtype("int32")]
    assert set(dtypes.values()) == {jnp.dtype("float32")}
    full = build_system(_small(**ssim))
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


def _run(config, steps):
    """[TrainState before, after each step], and the metrics of each step."""
    system = build_system(config)
    states = [_initial(system)]
    step = jax.jit(functools.partial(adversarial.train_step, system))
    metrics = []
    for number in range(steps):
        state, values = step(states[-1], _small_batch(number), jax.random.key(0))
        states.append(state)
        metrics.append(values)
    return states, metrics


def test_the_average_is_of_all_steps_and_forgets_faster_in_the_first():
    states, _ = _run(_small(ema_decay=0.2), 5)
    decays = np.array([1 / 10, 2 / 11, 0.2, 0.2, 0.2])  # 3 / 12 is above 0.2
    # The shares of the initial weights and of those after each step.
    left = [decays.prod(), *[(1 - decays[k]) * decays[k + 1 :].prod() for k in range(5)]]
    assert sum(left) == pytest.approx(1)

    def expected(*params):
        return sum(share * np.asarray(x, np.float64) for share, x in zip(left, params, strict=True))

    average = jax.tree.map(expected, *[state.generator.params for state in states])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7),
        states[-1].generator.average,
        average,
    )
    kernel = states[-1].generator.params["encode_0"]["kernel"]
    assert np.abs(kernel - average["encode_0"]["kernel"]).max() > 1e-5
    np.testing.assert_array_equal(
        states[0].generator.average["encode_0"]["kernel"],
        states[0].generator.params["encode_0"]["kernel"],
    )


def test_the_average_changes_no_training_and_evaluation_uses_it():
    with_average, metrics = _run(_small(ema_decay=0.9), 3)
    without, expected = _run(_small(), 3)
    assert metrics == expected
    ours, other = with_average[-1], without[-1]
    jax.tree.map(np.testing.assert_array_equal, ours.generator.params, other.generator.params)
    assert ours.discriminator.average is None and other.generator.average is None
    kernels = len(jax.tree.leaves(ours.generator.params))
    assert len(jax.tree.leaves(ours)) == len(jax.tree.leaves(other)) + kernels

    system = build_system(_small(ema_decay=0.9))
    source, _ = system.normalise(_small_batch())
    outputs = {
        name: system.generator.apply({"params": params}, source, train=False)
        for name, params in (("average", ours.generator.average), ("params", ours.generator.params))
    }
    generated = adversarial.generate(system, ours.generator, source)
    np.testing.assert_array_equal(generated, outputs["average"])
    assert (generated != outputs["params"]).any()


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({}, 2),
        ({"ema_decay": 0.9, "diff_augment": "color"}, 3),
        ({"discriminator.norm": "batch"}, 3),
        ({"discriminator.spectral_norm": True}, 3),
        ({"loss.feature_matching_weight": 1.0}, 3),
        ({"loss.r1_weight": 1.0}, 3),
        ({"loss.feature_matching_weight": 1.0, "loss.r1_weight": 1.0}, 4),
    ],
    ids=str,
)
def test_optional_losses_cost_one_pass_of_d_each(fields, calls):
    config = _small(**fields)
    system = build_system(config)
    state = abstract_state(system, config)
    assert (state.generator.average is not None) == bool(config.ema_decay)

    def step(state):
        return adversarial.train_step(system, state, _small_batch(), jax.random.key(0))

    seen = _calls(step, state)
    assert (seen.count("UNet"), seen.count("PatchGAN")) == (1, calls)


@pytest.mark.slow
def test_diff_augment_changes_what_d_sees_and_no_distance_of_images():
    (_, after), (metrics,) = _run(_small(diff_augment="color,translation,cutout"), 1)
    (_, plain), (expected,) = _run(_small(), 1)
    assert metrics["l1"] == expected["l1"]
    for name in ("D_real", "D_fake", "G_adversarial"):
        assert metrics[name] != expected[name]
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), after.discriminator.params, plain.discriminator.params
    )
    assert moved["level_0"]["kernel"]
    # Each step draws its own: D would learn one that never changes.
    system = build_system(_small(diff_augment="translation"))
    step = jax.jit(functools.partial(adversarial.train_step, system))
    state = plain
    losses = {
        float(
            step(state.replace(step=jnp.int32(n)), _small_batch(), jax.random.key(0))[1]["D_real"]
        )
        for n in range(3)
    }
    assert len(losses) == 3


ALL = {
    "generator.norm": "instance",
    "generator.attention_gates": True,
    "generator.self_attention": 2,
    "discriminator.spectral_norm": True,
    "discriminator.scales": 2,
    "discriminator.norm": "batch",
    "discriminator.strided_levels": 1,
    "loss.r1_weight": 1.0,
    "loss.feature_matching_weight": 10.0,
    "loss.gradient_weight": 1.0,
    "loss.structure_weight": 1.0,
    "loss.ssim_weight": 1.0,
    "loss.ms_ssim_weight": 1.0,
    "loss.ms_ssim_levels": 1,
    "diff_augment": "color,translation,cutout",
    "ema_decay": 0.9,
}


@pytest.mark.slow
def test_all_parts_train_together_and_move_everything():
    states, metrics = _run(_small(**ALL), 2)
    assert all(np.isfinite(v) for values in metrics for v in values.values())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), states[0], states[2])
    names = {
        jax.tree_util.keystr(path)
        for path, moved in jax.tree_util.tree_leaves_with_path(moved)
        if not moved
    }
    # A bias before a batch norm has no gradient, nor has that of a softmax's key.
    assert all("bias" in name for name in names), names


@pytest.mark.parametrize(
    "fields",
    [{"ema_decay": 0.9}, pytest.param(ALL, marks=pytest.mark.slow)],
    ids=["average", "all"],
)
def test_an_average_is_donated_saved_and_resumed_bit_for_bit(tmp_path, fields):
    config = _small(**fields)
    system = build_system(config)
    mesh = sharding.make_mesh(1, config.data.batch_size, devices=2)
    abstract = abstract_state(system, config)
    shardings = sharding.state_shardings(mesh, abstract)
    step = fit.compile_step(system, config, mesh, abstract)

    def run(state, first, stop):
        for number in range(first, stop):
            state, _ = step(state, sharding.to_global(_small_batch(number), mesh))
        return state

    initial = fit.initial_state(system, config, shardings)
    saved = run(initial, 0, 2)
    kept = [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(initial)
        if not x.is_deleted()
    ]
    assert all("sigma" in name for name in kept), kept  # a step overwrites it unread
    checkpoints = Checkpoints(tmp_path, "ssim")
    checkpoints.save(2, saved)
    checkpoints.close()
    whole = run(saved, 2, 4)

    placed = sharding.with_shardings(abstract, shardings)
    restored = Checkpoints(tmp_path, "ssim", read_only=True).restore(2, placed)
    resumed = run(restored, 2, 4)
    assert jax.tree.structure(resumed) == jax.tree.structure(whole)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert int(whole.step) == 4


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_is_no_share_is_named(decay):
    with pytest.raises(ConfigError, match=rf"config\.ema_decay={decay}: use a share from 0"):
        build_system(_small(ema_decay=decay))


def test_an_average_of_weights_is_refused_with_running_statistics():
    message = r'config\.ema_decay=0\.9 .*config\.generator\.norm="batch"'
    with pytest.raises(ConfigError, match=message):
        build_system(_small(**{"ema_decay": 0.9, "generator.norm": "batch"}))
    build_system(_small(**{"generator.norm": "batch"}))
    build_system(_small(**{"ema_decay": 0.9, "discriminator.norm": "batch"}))
