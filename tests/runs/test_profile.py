"""A profile of chosen steps."""

import pytest
from absl import flags
from absl.testing import flagsaver

from configs.lidc_mask2ct import get_config
from input_pipeline.dataset import Dataset
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.start import Start
from jax_pix2pix.train import train
from launch.process import train_flags
from tests import commands
from tests.faults import runs


@pytest.mark.parametrize("text", ["5", "5:", "9:5", "0:5", "a:b", "5:6:7", "-1:2", ""])
def test_malformed_steps_are_refused(text):
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(profile_steps=text),
        pytest.raises(ConfigError, match=f"^--profile_steps={text}: use two steps from 1 on"),
    ):
        train_flags.profile_steps()
    flags.FLAGS.unparse_flags()


def test_steps_beyond_the_run_are_refused(sample_data_dir, tmp_path):
    config = get_config("quickstart")
    config.data.data_dir, config.data.image_size = str(sample_data_dir), 32
    config.data.batch_size, config.epochs = 14, 2
    with pytest.raises(ConfigError, match=r"^--profile_steps=5:21: the run has 20 steps$"):
        start = Start(profile_steps=(5, 21))
        train(config, tmp_path / "run", Dataset(config.data, prepare=True), start)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_each_process_writes_a_trace(sample_data_dir, tmp_path, processes):
    fields = {"data.image_size": 32, "generator.depth": 3, "epochs": 1, "constant_epochs": 1}
    arguments = commands.tiny_training(tmp_path, sample_data_dir, **fields)
    ((out, _), *_) = runs.train([*arguments, "--profile_steps=3:5"], processes)
    assert f"profile: {tmp_path}/profile/process_0000" in out
    for process in range(processes):
        folder = tmp_path / "profile" / f"process_{process:04d}"
        (trace,) = folder.rglob("*.xplane.pb")
        assert trace.stat().st_size > 1000
