"""A checkpoint continued on other devices and processes has the same batches and mathematics.

Runs are compared in float64, for the reason that tests/test_devices.py gives. A checkpoint holds no
random state: the seed decides the order of the examples, augmentation and dropout.
"""

import shutil

import numpy as np
import pytest

from input_pipeline import order
from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.averages import batch_ids
from jax_pix2pix.runs.workdir_files import claim, read_config
from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow
BATCH = 8
EVERY = 8  # steps between checkpoints, all of which are kept
STEPS = 34  # 2 epochs of 17
TOPOLOGIES = {"one_by_one": (1, 1), "one_by_eight": (1, 8), "two_by_two": (2, 2)}


def _train(workdir, data_dir, topology, **overrides):
    processes, devices = TOPOLOGIES[topology]
    fields = {
        "data.batch_size": BATCH,
        "data.image_size": 32,
        "generator.depth": 3,
        "checkpoint_every_steps": EVERY,
        "checkpoint_every_epochs": 2,
        "keep_last": 9,
        "dtype": "float64",
    }
    arguments = commands.tiny_training(workdir, data_dir, **fields | overrides)
    return runs.train(arguments, processes, devices=devices, float64=True)


def _cut(source, step, workdir):
    """A copy of a run, as if it had been killed when ``step`` was its last checkpoint."""
    shutil.copytree(source, workdir)
    for newer in runs.steps(workdir):
        if newer > step:
            shutil.rmtree(workdir / "checkpoints" / str(newer))
    assert runs.steps(workdir)[-1] == step
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sample_data_dir):
    """A run of one process with one device, from the first step to the last."""
    workdir = tmp_path_factory.mktemp("whole")
    _train(workdir, sample_data_dir, "one_by_one")
    assert runs.steps(workdir) == [8, 16, 24, 32, 34]
    return workdir


def _batch_ids():
    """The batch_ids of all steps, from the order of the examples alone."""
    steps = [order.global_indices(0, step, BATCH, 142).numpy() for step in range(STEPS)]
    return [int(batch_ids(np.asarray(x))) for x in steps]


def _assert_same_training(workdir, reference):
    """Asserts equal batches, losses, learning rates and scores."""
    for split in ("train", "validation"):
        ours, theirs = commands.metrics(workdir, split), commands.metrics(reference, split)
        assert len(ours) == len(theirs) == (STEPS if split == "train" else 1)
        for line, expected in zip(ours, theirs, strict=True):
            assert line.keys() == expected.keys()
            for name in line.keys() - {"batch_ids", "split"}:
                assert line[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-12), (
                    name,
                    line,
                )
    assert [line["batch_ids"] for line in commands.metrics(workdir)] == _batch_ids()


def test_undisturbed(whole):
    _assert_same_training(whole, whole)


@pytest.mark.parametrize(
    "topology", [pytest.param("one_by_eight", marks=pytest.mark.long), "two_by_two"]
)
def test_there_and_back(whole, sample_data_dir, tmp_path, topology):
    there = _cut(whole, 8, tmp_path / "there")
    outputs = _train(there, sample_data_dir, topology)
    changed = ["processes was" in err or "devices was" in err for _, err in outputs]
    assert changed == [True, False][: len(outputs)]  # once, and not once a process
    _assert_same_training(there, whole)

    back = _cut(there, 24, tmp_path / "back")
    _train(back, sample_data_dir, "one_by_one")
    _assert_same_training(back, whole)


@pytest.mark.long
def test_split_parameters_of_two_processes_continue_on_eight_devices_of_one(
    whole, sample_data_dir, tmp_path
):
    split = {"fsdp": 2}
    _train(tmp_path / "two", sample_data_dir, "two_by_two", **split)
    workdir = _cut(tmp_path / "two", 16, tmp_path / "one")
    _train(workdir, sample_data_dir, "one_by_eight", **split)
    _assert_same_training(workdir, whole)


def test_another_seed_is_refused(whole):
    """The new seed would decide the steps still to come, after steps with the old seed."""
    config = read_config(whole)
    config.seed = 1
    with pytest.raises(WorkdirError, match="seed: 0 there, 1 now"):
        claim(whole, config)
