"""Training of all scales, by the command: what passes from scale to scale, and resuming."""

import hashlib
import itertools
import signal
import time

import jax
import numpy as np
import pytest
import torch

from configs import ct_pyramid_3d
from input_pipeline import pipeline
from jax_pix2pix import pyramid
from jax_pix2pix.adversarial import create_state, generate
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.models.pyramid import scale_variables
from jax_pix2pix.runs import initial_weights, workdir_files
from jax_pix2pix.runs.workdir import build_system, example_batch, load_state
from jax_pix2pix.sharding import make_mesh, state_shardings
from tests import commands

pytestmark = pytest.mark.slow  # they train three scales
SCALES = 3  # 16, 24 and 36 pixels a side
STEPS = [20, 40, 60]  # of each scale, in epochs of 10


def _start(workdir, data_dir):
    fields = {
        "data.data_dir": data_dir,
        "data.image_size": 36,
        "data.depth": 4,
        "data.repeat": 10,
        "pyramid.min_size": 16,
        "pyramid.max_size": 36,
        "pyramid.factor": 1.5,
        "pyramid.discriminator_updates": 1,
        "pyramid.generator_updates": 1,
        "generator.width": 4,
        "generator.norm": "batch",
        "discriminator.width": 4,
        "loss.segmentation_weight": 0.0,
        "epochs": 2,
        "log_every_steps": 1,
        "text_log_every_epochs": 1,
        "sample_every_epochs": 100,
        "checkpoint_every_epochs": 1,
    }
    return commands.start(
        "launch.train",
        "--config=configs/ct_pyramid_2d.py:quickstart",
        f"--workdir={workdir}",
        *[f"--config.{name}={value}" for name, value in fields.items()],
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """-> (workdir, the progress that the command printed)."""
    workdir = tmp_path_factory.mktemp("run")
    _, err = commands.finish(_start(workdir, data_dir))
    return workdir, err


@pytest.fixture(scope="module")
def states(run):
    """(config, system, the state after its last step) of each scale."""
    directories = [workdir_files.scale_directory(run[0], scale) for scale in range(SCALES)]
    return [load_state(directory, "last")[:3] for directory in directories]


def _assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_scale_trains_longer_and_says_which_it_is(run, states):
    workdir, err = run
    for number, (config, _, state) in enumerate(states):
        assert f"scale {number + 1} of {SCALES}" in err
        assert config.pyramid.scale == number and state.step == STEPS[number]
        lines = commands.metrics(workdir / f"scale_{number}")
        assert [line["step"] for line in lines] == list(range(1, STEPS[number] + 1))
        rates = [line["learning_rate"] for line in lines]
        constant = 4 * STEPS[number] // 5
        np.testing.assert_allclose(rates[:constant], 5e-4, rtol=1e-6)
        np.testing.assert_allclose(rates[constant:], 5e-5, rtol=1e-6)
    directory, last = workdir_files.last_scale(workdir)
    assert (directory, last) == (str(workdir / "scale_2"), 2)


def test_no_bit_of_a_frozen_scale_changes(states):
    trained = [scale_variables(state.generator)[-1] for _, _, state in states]
    for number, (_, _, state) in enumerate(states):
        assert len(state.generator.frozen["scales"]) == number
        for ours, theirs in zip(scale_variables(state.generator), trained, strict=False):
            _assert_same_bits(ours, theirs)
    # The frozen weights are the trained ones, not the initial ones.
    for coarse, fine in itertools.pairwise(trained):
        kernels = [x["params"]["first"]["kernel"] for x in (coarse, fine)]
        assert not np.array_equal(*kernels)


def test_a_finer_scale_begins_with_the_coarser_ones_weights(run, states, data_dir):
    coarse, (config, system, _) = states[0][2], states[1]
    fresh = create_state(system, jax.random.key(0), example_batch(config))
    shardings = state_shardings(make_mesh(1, 1, 1), fresh)
    state = pyramid.grow(
        config,
        system,
        workdir_files.scale_directory(run[0], 0),
        lambda: pipeline.eval_batches(config.data, "train"),
        fresh,
        shardings,
    )
    assert state.step == 0
    for ours, theirs, begun in (
        (state.generator, coarse.generator, fresh.generator),
        (state.discriminator, coarse.discriminator, fresh.discriminator),
    ):
        _assert_same_bits(ours.params, theirs.params)
        _assert_same_bits(ours.batch_stats, theirs.batch_stats)
        _assert_same_bits(ours.opt_state, begun.opt_state)  # each scale has its own moments
        assert jax.tree.all(jax.tree.map(np.array_equal, begun.params, theirs.params)) is False


def test_a_scale_begins_with_another_pyramids_weights_on_its_own_coarser_ones(run, states):
    """As with --init_from: what was frozen stays that of the pyramid that trains."""
    _, system, theirs = states[1]
    config = states[1][0]
    record = initial_weights.recorded(
        str(run[0] / "new"), str(run[0]), "last", [(c, s) for c, s, _ in states]
    )
    assert [scale["step"] for scale in record["scales"]] == STEPS
    fresh = create_state(system, jax.random.key(0), example_batch(config))
    shardings = state_shardings(make_mesh(1, 1, 1), fresh)
    state = initial_weights.warm_start(record, 1, fresh, shardings)
    _assert_same_bits(state.generator.params, theirs.generator.params)
    _assert_same_bits(state.discriminator.params, theirs.discriminator.params)
    _assert_same_bits(state.generator.frozen, fresh.generator.frozen)
    one_more = [*[(c, s) for c, s, _ in states], states[-1][:2]]
    with pytest.raises(ConfigError, match="holds no scale_3, which this run has"):
        initial_weights.recorded(str(run[0] / "new"), str(run[0]), "last", one_more)


def test_amplitude_is_a_tenth_of_the_reconstructions_error(states):
    """Recomputes it with PyTorch's interpolation, from the prepared volume."""
    config, _, finest = states[-1]
    (batch,) = pipeline.eval_batches(config.data, "train")
    hu = np.asarray(batch["source"], np.float64)[batch["index"][:, 0] >= 0][..., 0]
    volume = torch.tensor(np.clip(hu, -1000, 1000) / 1000)

    def resized(x, side):
        return torch.nn.functional.interpolate(
            x, size=(side, side), mode="bilinear", align_corners=True
        )

    expected = [1.0]
    for (_, system, state), side in zip(states[:-1], (24, 36), strict=True):
        z_rec, _ = system.normalise(batch)
        made = np.asarray(generate(system, state.generator, z_rec), np.float64)[: len(hu)]
        error = resized(torch.tensor(np.moveaxis(made, -1, 1)), side) - resized(volume, side)
        expected.append(0.1 * error.square().mean().sqrt().item())
    np.testing.assert_allclose(finest.generator.frozen["amplitudes"], expected, rtol=1e-5)
    amplitudes = [np.asarray(state.generator.frozen["amplitudes"]) for _, _, state in states]
    for number, values in enumerate(amplitudes):
        np.testing.assert_array_equal(values, amplitudes[-1][: number + 1])


def _files(directory):
    """{path: (time of the last change, digest)}."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def test_killed_within_a_scale_it_resumes_bit_for_bit(run, states, data_dir, tmp_path):
    process = _start(tmp_path, data_dir)
    checkpoints = tmp_path / "scale_1" / "checkpoints"
    deadline = time.monotonic() + 600
    while not (checkpoints / "10").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.kill()
    commands.finish(process, -signal.SIGKILL)
    assert not (checkpoints / str(STEPS[1])).exists()
    done = _files(tmp_path / "scale_0")
    assert any(name.startswith(f"checkpoints/{STEPS[0]}/") for name in done)

    out, _ = commands.finish(_start(tmp_path, data_dir))
    assert out.count("already finished") == 1
    assert _files(tmp_path / "scale_0") == done
    for number, (_, _, state) in enumerate(states):
        directory = f"scale_{number}"
        _assert_same_bits(load_state(str(tmp_path / directory), "last")[2], state)
        for split in ("train", "validation"):
            ours, theirs = (
                commands.metrics(workdir / directory, split) for workdir in (tmp_path, run[0])
            )
            assert ours == theirs and ours


def test_a_workdir_without_scales_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match="holds no checkpoint of scale_0: train first"):
        workdir_files.last_scale(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"), [("data.flip", True), ("data.load_size", 80), ("diff_augment", "color")]
)
def test_augmentation_is_refused(field, value):
    config = ct_pyramid_3d.get_config("quickstart")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=f"config.{field}={value}: a pyramid has no augmentation"):
        build_system(config)
