"""Refusals of launch.predict, and how its results get their names."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from configs import lidc_mask2ct, liver, xray_lungs
from jax_pix2pix.errors import ConfigError, DataError, WorkdirError
from jax_pix2pix.inference.files import replacing
from launch.predict import predict
from tests import commands, untrained


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    xray, ct, tumour = xray_lungs.get_config(), liver.get_config(), liver.get_config("tumour")
    lidc = lidc_mask2ct.get_config()
    folder = tmp_path_factory.mktemp("runs")
    neighbours = lidc_mask2ct.get_config()
    neighbours.data.context = 1
    configs = {"xray": xray, "liver": ct, "tumour": tumour, "lidc": lidc, "lidc_25d": neighbours}
    for name, config in configs.items():
        config.data.image_size = 32
        config.generator.width = config.discriminator.width = 2
        if name in ("xray", "lidc", "lidc_25d"):
            config.generator.depth = 5
        untrained.save(folder / name, config)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name in ("xray.png", "twice/a.png", "twice/a.PNG", "images/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)
    for name in (
        "ct.nii",
        "volumes/volume-1.nii",
        "volumes/volume-1.nii.gz",
        "labels/labelsTr/l.nii",
        "labels/seg-lungs-LUNA16/l.nii",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        hu = np.linspace(-1000, 300, 192).astype(np.int16).reshape(8, 8, 3)
        nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / name)
    (folder / "labels" / "segmentation-0.nii").write_bytes((folder / "ct.nii").read_bytes())
    (folder / "bad.nii").write_bytes((folder / "ct.nii").read_bytes()[:-9])
    Image.fromarray(np.full((8, 8, 4), 9, np.uint8)).save(folder / "alpha.png")
    (folder / "empty").mkdir()
    return folder


REFUSALS = [
    ("xray", "ct.nii", {}, "ct.nii is no X-ray and holds none: this run takes .png"),
    ("xray", "volumes", {}, "volumes is no X-ray and holds none"),
    ("xray", "absent.png", {}, "absent.png does not exist"),
    ("xray", "alpha.png", {}, "alpha.png is not 8-bit grey or RGB"),
    ("xray", "twice", {}, "would both become"),
    ("liver", "xray.png", {}, "xray.png is no CT volume and holds none: this run takes .nii"),
    ("liver", "images", {}, "images is no CT volume and holds none"),
    ("liver", "empty", {}, "empty is no CT volume and holds none"),
    ("liver", "labels", {}, "labels is no CT volume and holds none"),
    ("liver", "bad.nii", {}, "bad.nii cannot be read as a NIfTI volume"),
    ("liver", "volumes", {}, "volume-1.nii and volume-1.nii.gz would both become"),
    ("liver", "ct.nii", {"mc_dropout": 3}, "mc_dropout=3, but the generator has no dropout"),
    ("liver", "ct.nii", {"largest_components": -1}, "largest_components=-1: use 0 or more"),
    ("liver", "ct.nii", {"threshold": 1.0}, "threshold=1.0: use 0 to 1, exclusive"),
    ("liver", "ct.nii", {"threshold": float("nan")}, "threshold=nan: use 0 to 1, exclusive"),
    ("tumour", "ct.nii", {"threshold": 0.5}, "threshold=0.5: this run has 3 classes"),
    ("xray", "xray.png", {"mc_dropout": -1}, "mc_dropout=-1: use 0 or more"),
    ("xray", "xray.png", {"checkpoint": "9"}, 'no checkpoint "9"; use best, last or one of 7'),
    ("lidc", "xray.png", {"mc_dropout": 0}, "is of runs that make masks"),
    ("lidc", "xray.png", {"threshold": 0.5}, "is of runs that make masks"),
    ("lidc", "xray.png", {"largest_components": 1}, "is of runs that make masks"),
    ("lidc_25d", "xray.png", {}, "config.data.context is 1, but images have no neighbours"),
]


@pytest.mark.parametrize(("run", "source", "options", "message"), REFUSALS)
def test_refusals(runs, sources, tmp_path, run, source, options, message):
    with pytest.raises((ConfigError, DataError, WorkdirError), match=re.escape(message)):
        predict(runs / run, str(sources / source), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["xray", "liver"])
@pytest.mark.parametrize("source", ["", "xray.png", "ct.nii"])
def test_results_do_not_lie_among_what_they_are_made_of(runs, sources, tmp_path, run, source):
    (tmp_path / "link").symlink_to(sources)
    with pytest.raises(DataError, match="is where the input is: give another output"):
        predict(runs / run, str(sources / source), str(tmp_path / "link"))


def test_a_refusal_is_one_line_of_the_command(runs, sources, tmp_path):
    arguments = [f"--workdir={runs / 'liver'}", f"--input={sources / 'ct.nii'}"]
    flags = [f"--output={tmp_path / 'out'}", "--mc_dropout=2"]
    _, err = commands.run("launch.predict", *arguments, *flags, code=1, variables=untrained.QUIET)
    assert "mc_dropout=2" in commands.error_line(err)


def test_a_result_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "result.png"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.name == path.name
    assert path.read_text() == "first"
    with replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    full = re.escape(f"{path} cannot be written (No space left on device)")
    with pytest.raises(OSError, match=full), replacing(path) as temporary:
        temporary.write_text("th")
        Path("/dev/full").write_text("third", encoding="utf-8")
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]
