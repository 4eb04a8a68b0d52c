"""A run that goes on with another config: changes that do not affect training may be allowed."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from configs.lidc_mask2ct import get_config
from input_pipeline.dataset import Dataset
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.runs.workdir import load_state
from jax_pix2pix.runs.workdir_files import (
    CHANGEABLE,
    check_changeable,
    claim,
    read_config,
    scale_directory,
)
from jax_pix2pix.start import Start
from jax_pix2pix.train import train
from tests import commands

STEPS = 30  # 3 epochs of 10
ALLOW = "--allow_config_change"


def _arguments(workdir, data_dir, *more, **overrides):
    fields = {"epochs": 3, "sample_every_epochs": 3}
    return [*commands.tiny_training(workdir, data_dir, **fields | overrides), *more]


def _train(*arguments, **options):
    return commands.run("launch.train", *arguments, **options)


def _refusal(*arguments):
    _, err = _train(*arguments, code=1)
    return commands.error_line(err)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory, sample_data_dir):
    workdir = tmp_path_factory.mktemp("unchanged")
    _train(*_arguments(workdir, sample_data_dir))
    return workdir


@pytest.fixture
def after_two_epochs(unchanged, tmp_path):
    """A copy of the unchanged run as it was when it had saved step 20."""
    workdir = tmp_path / "run"
    shutil.copytree(unchanged, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    assert (workdir / "checkpoints" / "20").exists()
    return workdir


def _assert_same_state(a, b):
    (*_, a, a_step), (*_, b, b_step) = load_state(str(a), "last"), load_state(str(b), "last")
    assert a_step == b_step == STEPS
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_allowed_changes_are_kept_and_train_the_same(unchanged, after_two_epochs, sample_data_dir):
    changes = {"log_every_steps": 5, "data.cache": "host"}
    more = f"{ALLOW}=log_every_steps,data.cache,keep_last"  # keep_last does not change
    _train(*_arguments(after_two_epochs, sample_data_dir, more, **changes))
    _assert_same_state(unchanged, after_two_epochs)
    steps = [line["step"] for line in commands.metrics(after_two_epochs)]
    assert steps == [*range(1, 21), 25, 30]

    config = json.loads((after_two_epochs / "config.json").read_text())
    assert config["log_every_steps"] == 5 and config["data"]["cache"] == "host"
    lines = (after_two_epochs / "config_changes.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert all(line.pop("time") > 1.7e9 for line in kept)
    assert kept == [
        {"step": 20, "field": "data.cache", "old": "none", "new": "host"},
        {"step": 20, "field": "log_every_steps", "old": 1, "new": 5},
    ]
    # From now on these are the run's values, and there is nothing to allow.
    config = read_config(unchanged)
    config.update_from_flattened_dict(changes)
    claim(after_two_epochs, config)
    with pytest.raises(WorkdirError) as refused:
        claim(after_two_epochs, read_config(unchanged))
    line = str(refused.value)
    assert "log_every_steps: 5 there, 1 now" in line
    assert f"allow it with {ALLOW}=data.cache,log_every_steps, or use another workdir" in line


@pytest.mark.slow
def test_what_is_not_allowed_is_refused(unchanged, sample_data_dir):
    before = {path.name: path.read_bytes() for path in unchanged.glob("*.json*")}
    line = _refusal(*_arguments(unchanged, sample_data_dir, keep_last=3))
    assert f"keep_last: 2 there, 3 now): allow it with {ALLOW}=keep_last, or use another" in line
    # No allowance helps where another field has changed too.
    config = read_config(unchanged)
    config.keep_last, config.loss.l1_weight = 3, 10.0
    with pytest.raises(WorkdirError, match=r"100.0 there, 10.0 now\): use another workdir$"):
        claim(unchanged, config, ["keep_last"])
    assert {path.name: path.read_bytes() for path in unchanged.glob("*.json*")} == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("loss.l1_weight", "=loss.l1_weight: another value changes what is trained; use another"),
        ("keep_last,epochs", "=epochs: another value changes what is trained; use another workdir"),
        ("log_every_step", 'the config has no field "log_every_step"'),
    ],
)
def test_a_field_that_changes_what_is_trained_cannot_be_allowed(tmp_path, fields, message):
    config = get_config("quickstart")
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataset, start = Dataset(config.data, prepare=True), Start(allowed=fields.split(","))
        train(config, tmp_path / "run", dataset, start)
    assert not (tmp_path / "run").exists()


def test_checkpoints_without_their_config_are_nobodys(tmp_path):
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    with pytest.raises(WorkdirError, match=r"config\.json does not exist, but checkpoints"):
        claim(tmp_path, get_config())
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("field", CHANGEABLE)
def test_every_field_that_may_change_exists(field):
    check_changeable(get_config(), [field])


@pytest.mark.slow
def test_two_processes_accept_and_refuse_alike(unchanged, after_two_epochs, sample_data_dir):
    def start(*more):
        address = f"--coordinator_address=127.0.0.1:{commands.free_port()}"
        arguments = _arguments(after_two_epochs, sample_data_dir, *more, log_every_steps=5)
        return [
            commands.start(
                "launch.train", *arguments, address, "--num_processes=2", f"--process_id={number}"
            )
            for number in range(2)
        ]

    lines = [commands.error_line(commands.finish(process, 1)[1]) for process in start()]
    assert lines[0] == lines[1] and "log_every_steps: 1 there, 5 now" in lines[0]
    for process in start(f"{ALLOW}=log_every_steps"):
        commands.finish(process)
    assert (after_two_epochs / "checkpoints" / str(STEPS)).exists()
    changes = (after_two_epochs / "config_changes.jsonl").read_text().splitlines()
    assert len(changes) == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_pyramid_and_its_scales_change_alike(sample_data_dir, tmp_path):
    fields = {
        "data.data_dir": sample_data_dir,
        "data.image_size": 24,
        "data.depth": 4,
        "data.repeat": 4,
        "pyramid.max_size": 24,
        "pyramid.factor": 1.5,
        "pyramid.discriminator_updates": 1,
        "pyramid.generator_updates": 1,
        "generator.width": 4,
        "discriminator.width": 4,
        "loss.segmentation_weight": 0.0,
        "epochs": 1,
    }
    arguments = [
        "--config=configs/ct_pyramid_2d.py:quickstart",
        f"--workdir={tmp_path}",
        *[f"--config.{name}={value}" for name, value in fields.items()],
    ]
    _train(*arguments)
    _train(*arguments, "--config.keep_last=5", f"{ALLOW}=keep_last")
    for directory in (str(tmp_path), *(scale_directory(tmp_path, scale) for scale in range(2))):
        with open(f"{directory}/config.json", encoding="utf-8") as file:
            assert json.load(file)["keep_last"] == 5
        with open(f"{directory}/config_changes.jsonl", encoding="utf-8") as file:
            assert [json.loads(line)["new"] for line in file] == [5]
