"""A run that begins with another run's weights: what is taken, recorded and refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.runs import initial_weights
from jax_pix2pix.runs.workdir import build_system
from jax_pix2pix.runs.workdir_files import read_config
from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow  # the first to come trains the run that all take weights from


@pytest.fixture(scope="module")
def source(tiny_run):
    return tiny_run("lidc_mask2ct")


def _recorded(directory, run, checkpoint="last", **fields):
    """`recorded` for the run's own config with other values of some fields."""
    config = read_config(run)
    config.update_from_flattened_dict(fields)
    return initial_weights.recorded(
        str(directory), str(run), checkpoint, [(config, build_system(config))]
    )


def test_a_run_begins_with_the_weights_and_its_own_optimizer(source, sample_data_dir, tmp_path):
    """At a learning rate of 0 it also ends with them."""
    fields = {"epochs": 1, "optimizer.learning_rate": 0.0, "checkpoint_every_steps": 4}
    arguments = commands.tiny_training(tmp_path, sample_data_dir, **fields)
    arguments.append(f"--init_from={source}")
    out, _ = commands.run("launch.train", *arguments)
    last = runs.steps(source)[-1]
    assert f"weights      of {source}, step {last}" in out
    ours, theirs = runs.state(tmp_path), runs.state(source)
    params = [name for name in ours if ".params." in name]
    assert {name.split(".")[0] for name in params} == {"generator", "discriminator"}
    for name in params:
        np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
    assert ours["step"] == 10 and runs.steps(tmp_path)[-1] == 10

    record = json.loads((tmp_path / initial_weights.RECORD).read_text())
    (scale,) = record["scales"]
    assert record["run"] == str(source) and scale["step"] == last
    assert scale["config"] == {
        "checkpoint_every_steps": [0, 4], "epochs": [2, 1],
        "optimizer.learning_rate": [2e-4, 0.0],
    }  # fmt: skip

    # It goes on with the same command alone, which need not find the other run any more.
    with pytest.raises(WorkdirError, match=f"give --init_from={source} --init_checkpoint=last"):
        initial_weights.recorded(str(tmp_path), None, "last", [])
    with pytest.raises(WorkdirError, match=r"and not of .*, best: use another workdir"):
        initial_weights.recorded(str(tmp_path), str(source), "best", [])
    assert initial_weights.recorded(str(tmp_path), str(source), "last", None) == record
    with pytest.raises(WorkdirError, match="holds a run that began without --init_from"):
        _recorded(source, source)


def test_weights_that_do_not_fit_are_refused_by_field(source, tmp_path):
    changed = {"generator.width": 8, "optimizer.learning_rate": 0.1, "loss.l1_weight": 3.0}
    with pytest.raises(ConfigError) as refused:
        _recorded(tmp_path, source, **changed)
    assert str(refused.value) == (
        f"the weights of {source} do not fit this config (generator.width: 4 there, 8 here): use "
        "theirs"
    )
    changed = {"generator.depth": 4, "discriminator.width": 8, "ema_decay": 0.5}
    with pytest.raises(ConfigError, match=r"discriminator.width: 4 .*; generator.depth: 3 there"):
        _recorded(tmp_path, source, **changed)
    with pytest.raises(WorkdirError, match='no checkpoint "7"'):
        _recorded(tmp_path, source, "7")
    with pytest.raises(WorkdirError, match=r"nowhere/config\.json does not exist"):
        initial_weights.recorded(str(tmp_path), "nowhere", "last", [(None, None)])
    with pytest.raises(ConfigError, match=r"--init_from=s3://\*\*\*@host/run"):
        initial_weights.recorded(str(tmp_path), "s3://key:word@host/run", "last", [])
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_changed_since_is_not_taken(source, tmp_path):
    """A start before the first checkpoint of its own takes the same weights again, or none."""
    run = tmp_path / "run"
    shutil.copytree(source, run)
    record = _recorded(tmp_path / "new", run, "best")
    folder = run / "checkpoints" / str(record["scales"][0]["step"])
    (folder / "digests.json").write_text("{}")
    fresh = runs.fresh_state(run)
    shardings = jax.tree.map(lambda x: x.sharding, fresh)
    with pytest.raises(WorkdirError, match="is not the one with which this run began"):
        initial_weights.warm_start(record, 0, fresh, shardings)
    shutil.rmtree(folder)
    with pytest.raises(WorkdirError, match="does not exist: this run begins with it"):
        initial_weights.warm_start(record, 0, fresh, shardings)


def test_averages_begin_with_the_weights_where_the_other_run_has_none():
    network = {"params": 1, "batch_stats": 2, "average": None}
    assert initial_weights.with_average(network, True)["average"] == 1
    assert initial_weights.with_average(network, False)["average"] is None
    network["average"] = 3
    assert initial_weights.with_average(network, True)["average"] == 3
    assert initial_weights.with_average(network, False)["average"] is None
