"""launch.train refuses wrong arguments in one line each."""

import re

import pytest

from configs.lidc_mask2ct import get_config
from input_pipeline import prepared
from input_pipeline.dataset import Dataset
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.train import train
from tests import commands


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.batch_size": 1000}, "config.data.batch_size is 1000, with 142 training examples"),
        ({"fsdp": 3}, "config.fsdp=3 does not divide the 8 devices"),
        ({"data.batch_size": 12}, "config.data.batch_size=12 does not divide over 8 devices"),
        ({"generator.norm": "layer"}, 'norm is "layer": use'),
        ({"loss.adversarial": "vanilla"}, 'config.loss.adversarial is "vanilla"'),
        ({"generator.depth": 8}, "does not halve 8 times"),
        (
            {"data.patch_size": 96, "data.image_size": 112, "generator.depth": 5},
            "image size (112, 112) does not halve 5 times",
        ),
        (
            {"loss.ms_ssim_weight": 1.0, "loss.ms_ssim_levels": 5},
            "config.loss.ms_ssim_levels is 5: images of 128 x 128 pixels allow 1 to 4",
        ),
        (
            {"loss.adversarial": "wgan"},
            "config.loss.gradient_penalty_weight=0, but nothing else bounds the critic",
        ),
        ({"log_every_steps": 0}, "config.log_every_steps=0: use 1 or more"),
        ({"generator.dropout": 1.5}, "config.generator.dropout=1.5: use a share"),
        ({"data.source_range": (5, 5)}, "config.data.source_range=(5, 5): use two numbers"),
        ({"data.window_hu": (-1000,)}, "config.data.window_hu=(-1000,): use two numbers"),
        ({"data.window_hu": (400, -1000)}, "the smaller one first"),
        ({"dtype": "float64"}, "needs JAX_ENABLE_X64=1"),
        ({"data.cache": "disk"}, 'config.data.cache is "disk": use one of none, host, device'),
        ({"data.sample": "knee", "data.image_size": 64}, "no embedded sample 'knee'"),
    ],
)
def test_refusals(sample_data_dir, tmp_path, overrides, message):
    config = get_config("quickstart")
    config.update_from_flattened_dict(
        {"data.data_dir": str(sample_data_dir), "data.batch_size": 16} | overrides
    )
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        train(config, tmp_path / "run", Dataset(config.data, prepare=True))
    assert not (tmp_path / "run").exists()  # it would hold the refused config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fsdp": 3}, "config.fsdp=3 does not divide the 1 devices"),
        ({"epoch": 1}, "the config has no field 'epoch' Did you mean \"epochs\""),
        pytest.param({"lss.l1_weight": 1}, "the config has no field 'lss'", marks=pytest.mark.slow),
        pytest.param({"epochs": "many"}, "epochs", marks=pytest.mark.slow),
    ],
)
def test_refusals_are_one_line_of_the_command(sample_data_dir, tmp_path, overrides, message):
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **overrides)
    _, err = commands.run("launch.train", *arguments, code=1)
    assert message in commands.error_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_losses_that_stay_not_finite_end_the_run_before_a_checkpoint(sample_data_dir, tmp_path):
    overrides = {"optimizer.learning_rate": 1e37, "max_skipped": 3}
    arguments = commands.tiny_training(tmp_path, sample_data_dir, **overrides)
    _, err = commands.run("launch.train", *arguments, code=1)
    line = commands.error_line(err)
    assert "skipped in 3 steps in a row" in line and "learning_rate" in line
    assert not list((tmp_path / "checkpoints").iterdir())
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_workdir_keeps_the_record_of_its_data(sample_data_dir, tmp_path):
    config = get_config("quickstart")
    config.update_from_flattened_dict(
        {"data.data_dir": str(sample_data_dir), "data.batch_size": 16, "data.image_size": 64}
        | {"generator.depth": 4, "generator.width": 2, "discriminator.width": 2}
    )

    class Stopped(Exception):
        pass

    class Stopping(Dataset):
        def train_batches(self, *arguments):
            raise Stopped

    with pytest.raises(Stopped):
        train(config, tmp_path / "run", Stopping(config.data, prepare=True))
    for name in ("preparation.json", "manifest.csv"):
        record = prepared.ensure_prepared(config.data) / name
        assert (tmp_path / "run" / name).read_bytes() == record.read_bytes()


def test_unprepared_data_names_the_command(tmp_path):
    config = get_config()
    config.data.data_dir = f"{tmp_path}/data"
    with pytest.raises(DataError) as refused:
        train(config, tmp_path / "run", Dataset(config.data, prepare=True))
    line = str(refused.value)
    assert f"{tmp_path}/data/lidc_masks/" in line
    assert "run python -m launch.prepare --source=DIR with the same --config" in line


def test_unwritable_workdir_is_named(sample_data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    config = get_config("quickstart")
    config.data.data_dir = str(sample_data_dir)
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        train(config, tmp_path / "file", Dataset(config.data, prepare=True))
