"""The wheel works without the repository, from any folder, with configs by name."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from jax_pix2pix.errors import ConfigError
from launch.process import config_names
from tests import commands


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which a wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("configs", "input_pipeline", "jax_pix2pix", "launch"):
        shutil.copytree(commands.ROOT / name, folder / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(commands.ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", folder / "source"]
    subprocess.run([*command, "--wheel-dir", folder], check=True, timeout=600)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_trains_and_renders_in_an_empty_folder(installed, tmp_path):
    variables = {"PYTHONPATH": str(installed)}

    def run(module, *arguments):
        process = commands.start(module, *arguments, variables=variables, folder=tmp_path)
        return commands.finish(process)[0]

    training = commands.tiny_training(tmp_path / "run", tmp_path / "data")
    assert training[0] == "--config=configs/lidc_mask2ct.py:quickstart"
    run("launch.train", "--config=lidc_mask2ct:quickstart", *training[1:])
    assert (tmp_path / "run" / "checkpoints").is_dir()
    out = run("launch.evaluate", f"--workdir={tmp_path / 'run'}")
    assert "mean_training_target" in out
    names = {path.name for path in installed.rglob("*") if path.is_file()}
    # A data file of each package that has some.
    assert {"report.html", "lung_segmenter.safetensors", "train.sbatch", "SHA256SUMS"} <= names


def test_names_of_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word, flag, path = config_names.with_paths(["x", "--config=liver:tumour", "--config=a/b.py"])
    assert word == "x" and path == "--config=a/b.py"
    assert flag == f"--config={commands.ROOT / 'configs/liver.py'}:tumour"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/liver.py").touch()
    assert config_names.with_paths(["--config=liver"]) == ["--config=configs/liver.py"]
    assert config_names.with_paths(["--config", "liver:a"])[1] == "configs/liver.py:a"
    assert config_names.with_paths(["--", "--config=liver"])[1] == "--config=liver"
    with pytest.raises(
        ConfigError, match=r"--config=knee: there is no configs/knee\.py, and .* of ct"
    ):
        config_names.with_paths(["--config=knee"])
