"""Updates with gradients that are not finite, or with spikes of the loss, are skipped."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_pix2pix import sharding
from jax_pix2pix.adversarial import SPIKE_WINDOW, Network, _descend, create_state, train_step
from jax_pix2pix.runs.workdir import build_system, example_batch
from tests import commands
from tests.faults import poisoned, runs
from tests.tiny import tiny_config

DEVICES = 8


def _config(**fields):
    config = tiny_config()
    config.update_from_flattened_dict(
        {
            "data.image_size": 16,
            "data.batch_size": DEVICES,
            "generator.depth": 3,
            "discriminator.strided_levels": 1,
            **fields,
        }
    )
    config.steps_per_epoch = 1
    return config


def _batch(config, poison=()):
    """Pairs of noise; those whose numbers are in `poison` are poisoned."""
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 255, (DEVICES, *x.shape[1:]), x.dtype)
        for name, x in example_batch(config).items()
    }
    for number in poison:
        batch["source"][number] = poisoned.MARK
    return batch


def _stepper(system, config, devices=1):
    """-> (state on that many devices, (state, batch) -> (state, metrics))."""
    mesh = sharding.make_mesh(1, DEVICES, devices)
    key = jax.random.key(0)
    state = jax.jit(
        lambda: create_state(system, key, example_batch(config)),
        out_shardings=sharding.replicated(mesh),
    )()
    step = jax.jit(lambda state, batch: train_step(system, state, batch, key))
    return state, lambda state, batch: step(state, sharding.to_global(batch, mesh))


def _equal(a, b):
    same = jax.tree.map(lambda x, y: np.array_equal(x, y), jax.device_get(a), jax.device_get(b))
    return all(jax.tree.leaves(same))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, DEVICES])
@pytest.mark.parametrize(
    ("value", "fields"), [(np.nan, {"generator.norm": "batch"}), (np.inf, {"ema_decay": 0.9})]
)
def test_what_is_not_finite_on_one_device_changes_nothing_on_any(value, fields, devices):
    config = _config(**fields)
    system = poisoned.poison(build_system(config), value)
    state, step = _stepper(system, config, devices)
    state, metrics = step(state, _batch(config))
    assert (metrics["skipped_D"], metrics["skipped_G"]) == (0, 0)

    after, metrics = step(state, _batch(config, poison=[5]))
    assert (metrics["skipped_D"], metrics["skipped_G"]) == (1, 1)
    for network in ("generator", "discriminator"):
        old, new = getattr(state, network), getattr(after, network)
        assert _equal(old.replace(average=None), new.replace(average=None))
    assert after.step == state.step + 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(after)))

    later, metrics = step(after, _batch(config))
    assert (metrics["skipped_D"], metrics["skipped_G"]) == (0, 0)
    assert not _equal(after.generator.params, later.generator.params)


@pytest.mark.parametrize(
    ("bad", "sound"), [("generator", "discriminator"), ("discriminator", "generator")]
)
def test_one_network_is_left_out_and_the_other_is_not(bad, sound):
    config = _config()
    system = build_system(config)
    loss = getattr(system, f"{bad}_loss")

    def without_gradient(*arguments):
        value, metrics = loss(*arguments)
        return value * jnp.nan, metrics

    system = dataclasses.replace(system, **{f"{bad}_loss": without_gradient})
    state, step = _stepper(system, config)
    after, metrics = step(state, _batch(config))
    skipped = {"discriminator": metrics["skipped_D"], "generator": metrics["skipped_G"]}
    assert skipped == {bad: 1, sound: 0}
    assert _equal(getattr(state, bad), getattr(after, bad))
    assert not _equal(getattr(state, sound).params, getattr(after, sound).params)
    assert not _equal(getattr(state, sound).opt_state, getattr(after, sound).opt_state)


@pytest.mark.parametrize(("gradient", "skipped"), [(1e18, 0), (1e20, 1)])
def test_gradients_whose_squares_are_not_finite_are_skipped(gradient, skipped):
    """Adam would keep the square, and leave that parameter where it is for ever."""
    optimizer = optax.adam(1e-3)
    params = {"kernel": jnp.ones(3)}
    network = Network(params, {}, optimizer.init(params))
    gradients = {"kernel": jnp.array([1.0, gradient, 1.0])}
    after, count = _descend(optimizer, network, gradients, {}, jnp.float32(1.0), 0.0)
    assert count == skipped
    assert _equal(after, network) == bool(skipped)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(after)))


@pytest.mark.slow
def test_a_spike_is_skipped_and_remembered():
    sigmas = 6.0
    config = _config(spike_sigmas=sigmas)
    system = build_system(config)
    state, step = _stepper(system, config)
    batch = _batch(config)
    _, metrics = step(state, batch)
    assert (metrics["skipped_D"], metrics["skipped_G"]) == (0, 0)  # nothing to compare with yet

    # Losses whose mean + 6 standard deviations is a bit above this step's, and a bit below.
    spread = np.tile([-0.1, 0.1], SPIKE_WINDOW // 2).astype(np.float32)
    for above, skipped in ((1e-3, 0), (-1e-3, 1)):
        losses = {
            name: metrics[f"loss_{name}"] * (1 + above) - sigmas * spread.std() + spread
            for name in "GD"
        }
        # D's update changes G's loss: a spike of D's own keeps D as it is.
        network = state.discriminator.replace(losses=jnp.zeros(SPIKE_WINDOW))
        still = state.replace(discriminator=network)
        _, alone = step(still, batch)
        assert alone["skipped_D"] == 1
        losses["G"] = alone["loss_G"] * (1 + above) - sigmas * spread.std() + spread
        after, found = step(
            still.replace(generator=state.generator.replace(losses=jnp.asarray(losses["G"]))), batch
        )
        assert found["skipped_G"] == skipped
        assert _equal(after.generator.params, state.generator.params) == bool(skipped)
        assert _equal(after.generator.opt_state, state.generator.opt_state) == bool(skipped)
        np.testing.assert_allclose(after.generator.losses[-1], found["loss_G"], rtol=1e-6)
        np.testing.assert_array_equal(after.generator.losses[:-1], losses["G"][1:])


def _arguments(workdir, data_dir, steps, **fields):
    return [
        *commands.tiny_training(
            workdir,
            data_dir,
            **{
                "data.batch_size": 14,
                "data.image_size": 32,
                "generator.depth": 3,
                "checkpoint_every_steps": 3,
                "max_skipped": 3,
                **fields,
            },
        ),
        f"--poisoned_steps={','.join(map(str, steps))}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 1)]
)
def test_a_run_goes_on_over_bad_batches(sample_data_dir, tmp_path, processes, devices):
    """With two processes, only the last one gets a bad image."""
    arguments = _arguments(tmp_path, sample_data_dir, (4, 5, 12))
    runs.train(arguments, processes, module="tests.faults.poisoned", devices=devices)
    lines = commands.metrics(tmp_path)
    assert [line["step"] for line in lines if line["skipped_D"]] == [4, 5, 12]
    assert [line["step"] for line in lines if line["skipped_G"]] == [4, 5, 12]
    assert len(lines) == 20 and "loss_G" not in lines[3] and np.isfinite(lines[5]["loss_G"])
    assert all(np.isfinite(x).all() for x in runs.state(tmp_path).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices"), [pytest.param(1, 1, marks=pytest.mark.long), (2, 1)]
)
def test_bad_batches_in_a_row_end_the_run_and_leave_sound_checkpoints(
    sample_data_dir, tmp_path, processes, devices
):
    arguments = _arguments(tmp_path, sample_data_dir, range(5, 21))
    with runs.started(
        arguments, processes, module="tests.faults.poisoned", devices=devices
    ) as running:
        (_, err), *_ = runs.finish(running, 1)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "skipped in 3 steps in a row, up to step 7" in lines[0]
    for rank in range(processes):
        told = ("step 7: updates were skipped: ", "error: updates", "exit code 1", "Traceback")
        assert runs.logged(tmp_path, rank, *told)
    assert runs.steps(tmp_path) == [3, 6]
    for step in ("3", "6"):
        assert all(np.isfinite(x).all() for x in runs.state(tmp_path, step).values())
    assert all(
        np.isfinite(value)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        for value in json.loads(line).values()
        if isinstance(value, float)
    )
