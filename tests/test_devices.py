"""One device, eight devices, and two processes of four devices give the same run.

Runs are compared in float64. In float32 the devices' sums differ in the last bit. Adam's first
steps, which move every weight by the learning rate whatever the size of its gradient, amplify that.
"""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jax_pix2pix import sharding
from jax_pix2pix.adversarial import create_state, train_step
from jax_pix2pix.runs.workdir import build_system, example_batch
from tests import commands, golden
from tests.tiny import tiny_config

LOSSES = ("loss_G", "loss_D", "G_adversarial", "l1", "ssim")


def _arguments(workdir, data_dir, **overrides):
    fields = {"data.batch_size": 8, "epochs": 1, "constant_epochs": 1, "dtype": "float64"}
    return commands.tiny_training(workdir, data_dir, **fields | overrides)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, sample_data_dir):
    workdir = tmp_path_factory.mktemp("one")
    commands.run("launch.train", *_arguments(workdir, sample_data_dir), float64=True)
    return commands.metrics(workdir)


def _assert_same_losses(ours, reference):
    assert len(ours) == len(reference) == 17
    for line, expected in zip(ours, reference, strict=True):
        for name in LOSSES:
            assert line[name] == pytest.approx(expected[name], rel=1e-8), (name, line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fsdp", "cache"),
    [
        pytest.param(1, "none", marks=pytest.mark.long),
        pytest.param(2, "none", marks=pytest.mark.long),
        (2, "device"),
    ],
)
def test_eight_devices(one_device, sample_data_dir, tmp_path, fsdp, cache):
    arguments = _arguments(tmp_path, sample_data_dir, **{"fsdp": fsdp, "data.cache": cache})
    out, _ = commands.run("launch.train", *arguments, devices=8, float64=True)
    assert f"mesh data {8 // fsdp} x fsdp {fsdp}" in out
    _assert_same_losses(commands.metrics(tmp_path), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [pytest.param("none", marks=pytest.mark.long), "device"])
def test_two_processes_of_four_devices(one_device, sample_data_dir, tmp_path, cache):
    address = f"127.0.0.1:{commands.free_port()}"
    processes = [
        commands.start(
            "launch.train",
            *_arguments(tmp_path, sample_data_dir, **{"data.cache": cache}),
            f"--coordinator_address={address}",
            "--num_processes=2",
            f"--process_id={number}",
            devices=4,
            float64=True,
        )
        for number in range(2)
    ]
    try:
        out, _ = commands.finish(processes[0])
        commands.finish(processes[1])
    finally:
        for process in processes:
            process.kill()
    assert "devices      8 cpu in 2 process(es)" in out
    _assert_same_losses(commands.metrics(tmp_path), one_device)


@pytest.mark.slow
def test_float32_on_eight_devices_before_adam_amplifies_rounding():
    config = tiny_config()
    system = build_system(config)
    rng = np.random.default_rng(0)
    source = 127 * rng.integers(0, 3, (8, 128, 128, 1), np.uint8)
    batch = {"source": source, "target": rng.integers(0, 256, source.shape, np.uint8)}

    def losses(devices):
        mesh = Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "fsdp"))
        everywhere = sharding.replicated(mesh)
        create = jax.jit(
            lambda: create_state(system, jax.random.key(0), example_batch(config)),
            out_shardings=everywhere,
        )
        step = jax.jit(
            lambda state, batch: train_step(system, state, batch, jax.random.key(0)),
            out_shardings=everywhere,
        )
        state, lines = create(), []
        for _ in range(3):
            state, metrics = step(state, sharding.to_global(batch, mesh))
            lines.append([float(metrics[name]) for name in LOSSES])
        return lines

    np.testing.assert_allclose(losses(8), losses(1), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_scale_of_the_pyramid_on_eight_devices(float64):
    """It has several updates per step, batch norm over all devices, and frozen coarser scales."""
    config = golden.config_of(golden.CASES["ct_pyramid_2d"])
    config.data.batch_size = 8
    config.generator.norm = "batch"
    system = build_system(config)
    key = jax.random.key(0)
    batches = list(itertools.islice(golden.batches(config), 3))

    def create():
        return golden.initial_state(system, config)

    def losses(devices, fsdp):
        mesh = sharding.make_mesh(fsdp, 8, devices)
        placement = sharding.state_shardings(mesh, jax.eval_shape(create))
        state = jax.jit(create, out_shardings=placement)()
        step = jax.jit(
            lambda state, batch: train_step(system, state, batch, key),
            out_shardings=(placement, sharding.replicated(mesh)),
        )
        lines = []
        for batch in batches:
            state, metrics = step(state, sharding.to_global(batch, mesh))
            lines.append(jax.device_get(metrics))
        return lines

    for line, expected in zip(losses(8, fsdp=2), losses(1, fsdp=1), strict=True):
        assert len(line) == 10
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=1e-8), name


def test_incomplete_distributed_flags_are_refused(sample_data_dir, tmp_path):
    arguments = [*_arguments(tmp_path, sample_data_dir), "--num_processes=2"]
    _, err = commands.run("launch.train", *arguments, code=1)
    assert "--process_id go together" in commands.error_line(err)
