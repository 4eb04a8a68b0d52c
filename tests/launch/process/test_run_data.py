"""The config of a workdir from anywhere fetches, prepares and uploads nothing."""

import json
import os
import shutil
import uuid

import pytest

from configs import lidc_mask2ct
from input_pipeline import prepared
from jax_pix2pix.errors import ConfigError, DataError, WorkdirError
from jax_pix2pix.runs.stores import remote_workdir, storage
from launch.evaluate import evaluate
from launch.predict import predict
from launch.process import run_data
from tests import commands


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_here", set())
    (tmp_path / "config.json").touch()  # of the user's own


@pytest.fixture
def store(sample_data_dir):
    """A store with prepared data."""
    url = f"memory://{uuid.uuid4().hex}"
    files = [path for path in sample_data_dir.rglob("*") if path.is_file()]
    names = [path.relative_to(sample_data_dir).as_posix() for path in files]
    storage.Store(url).put(sample_data_dir, names)
    return url


def _config(data_dir, sample="chest_ct"):
    config = lidc_mask2ct.get_config("quickstart")
    config.data.data_dir, config.data.sample = str(data_dir), sample
    return config


def test_a_store_that_only_the_config_names_is_left_alone(store, tmp_path, monkeypatch):
    before = storage.Store(store).names()
    with pytest.raises(
        DataError, match=f"^{store}/lidc_masks/.* is not on this machine: .* --data"
    ):
        run_data.of_run(_config(store), tmp_path, None)
    assert not (tmp_path / "cache").exists()
    dataset = run_data.of_run(_config("elsewhere"), tmp_path, store)
    assert dataset.directory.is_relative_to(tmp_path / "cache")
    assert dataset.steps_per_epoch and storage.Store(store).names() == before
    # Now it is here, and nobody has to be asked.
    monkeypatch.setattr(storage.Store, "names", None)
    assert run_data.of_run(_config(store), tmp_path, None).directory == dataset.directory


@pytest.mark.parametrize("sample", ["chest_ct", "", "patients"])
def test_nothing_is_prepared_or_uploaded(sample, tmp_path):
    """Neither the user's own files that a hostile config names, nor an embedded sample."""
    url = f"memory://{uuid.uuid4().hex}"
    if sample == "patients":
        shutil.copytree(prepared.SAMPLES / "chest_ct", tmp_path / "patients")
        sample = str(tmp_path / "patients")
    for data_dir, given in ((url, None), (tmp_path / "data", None), ("x", url), ("x", "y")):
        with pytest.raises(DataError, match=r"does not exist|not on this m|no embedded sample"):
            run_data.of_run(_config(data_dir, sample), tmp_path, given)
    assert storage.Store(url).names() == {} and not (tmp_path / "data").exists()


def test_a_folder_that_the_user_names_is_read(sample_data_dir, tmp_path):
    config = _config("s3://nobody/data")
    dataset = run_data.of_run(config, tmp_path, str(sample_data_dir))
    assert dataset.directory.is_relative_to(sample_data_dir)
    assert config.data.data_dir == "s3://nobody/data"


def test_data_that_the_config_of_another_user_names_are_not_read(
    sample_data_dir, tmp_path, monkeypatch
):
    config = _config(sample_data_dir)
    (tmp_path / "config.json").write_text(config.to_json())
    assert run_data.of_run(config, tmp_path, None).directory
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(DataError, match=rf"^{tmp_path}/config\.json belongs to another user, .*"):
        run_data.of_run(config, tmp_path, None)
    assert run_data.of_run(config, tmp_path, str(sample_data_dir)).directory


def test_nor_are_those_that_a_config_in_a_store_names(sample_data_dir, tmp_path):
    url, config = f"memory://{uuid.uuid4().hex}", _config(sample_data_dir)
    storage.Store(url).write({"config.json": config.to_json().encode()})
    with remote_workdir.copied(url) as workdir:
        with pytest.raises(
            DataError, match=rf"config\.json is in a store, .*{sample_data_dir}, are"
        ):
            run_data.of_run(config, workdir, None)
        assert run_data.of_run(config, workdir, str(sample_data_dir)).directory


def test_the_place_of_results_is_looked_at_before_scoring(tmp_path):
    (tmp_path / "config.json").write_text(_config("nowhere").to_json())
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "evaluation").touch()
    with pytest.raises(
        WorkdirError, match=r"written \(File exists\): name a folder with --output$"
    ):
        evaluate(str(tmp_path), None, None, {}, str(tmp_path))
    with pytest.raises(WorkdirError, match=r"b/test.json cannot .*: name another folder$"):
        output = str(tmp_path / "evaluation" / "b")
        evaluate(str(tmp_path), None, None, {}, str(tmp_path), output=output)
    with pytest.raises(DataError, match=r"nowhere/.* does not exist"):
        evaluate(str(tmp_path), None, None, {}, str(tmp_path), output=str(tmp_path / "scores"))


def test_a_home_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match=r"^~nosuch/x: ~nosuch has no home folder here"):
        run_data.of_run(_config("~nosuch/x"), tmp_path, None)


def test_a_config_that_lacks_fields_is_named(tmp_path):
    config = _config("x")
    with config.unlocked():
        del config.data.sample
    with pytest.raises(WorkdirError, match=f"^{tmp_path}/config.json does not hold the config"):
        run_data.of_run(config, tmp_path, None)


def test_only_pyramids_begin_with_data(tmp_path):
    (tmp_path / "config.json").write_text(_config("x").to_json())
    files = str(tmp_path / "mask.png"), str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"^--data: only pyramids begin with training volumes"):
        predict(str(tmp_path), *files, data_dir="y")


# Which address nobody answers at; without it botocore would ask the real one.
NOBODY = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_MAX_ATTEMPTS": "1",
    "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@pytest.mark.slow
def test_evaluation_asks_no_store_of_a_shared_workdir(tiny_run, sample_data_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run("lidc_mask2ct"), run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["data_dir"] = "s3://nobody/data"
    config["loss"] |= {"perceptual_weight": 1.0, "perceptual_weights_file": "/dev/zero"}
    (run / "config.json").write_text(json.dumps(config))
    _, err = commands.run("launch.evaluate", f"--workdir={run}", code=1, variables=NOBODY)
    line = commands.error_line(err)
    assert "s3://nobody/data/lidc_masks/" in line and "is not on this machine: run python" in line
    assert "name that folder or store with --data" in line
    scores = tmp_path / "scores"
    arguments = [f"--workdir={run}", f"--data={sample_data_dir}", f"--output={scores}"]
    out, _ = commands.run("launch.evaluate", *arguments, variables=NOBODY)
    assert f"all values: {scores}/test.json" in out and (scores / "test.png").exists()
    assert not (run / "evaluation").exists()
