"""Pictures of synthetic CT from launch.predict: network inputs, recomputed results, refusals."""

import json
import shutil

import jax
import numpy as np
import pytest
import SimpleITK as sitk
from ml_collections import ConfigDict
from PIL import Image

import jax_pix2pix
from configs import mri2ct, mri2ct_3d
from input_pipeline import pipeline, prepared
from input_pipeline.prepare import prepare
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.inference.synthetic_ct import prepared_picture
from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.runs.workdir_files import RECORD, SOURCES_NOTE
from launch.predict import predict
from tests import untrained
from tests.inference.test_ct_volumes import resized
from tests.input_pipeline.datasets.test_mri_ct_pictures import LAYOUTS, pair, write, write_layout

STORED, SIZE = 24, 16
WINDOW = (-1024, 1000)  # of the network's output
PICTURE_WINDOW = (-1000, 900)
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs: "2d", "context" and "3d"."""
    configs = {
        "2d": mri2ct.get_config(),
        "context": mri2ct.get_config("extended"),
        "3d": mri2ct_3d.get_config(),
    }
    folder = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        # To a dict, as image_size and stored_size refer to one value.
        config = ConfigDict(config.to_dict())
        config.data.image_size, config.data.stored_size = SIZE, STORED
        config.data.window_hu, config.data.image_window_hu = WINDOW, PICTURE_WINDOW
        config.generator.width = config.discriminator.width = 4
        config.discriminator.strided_levels = 2
        if name == "3d":
            config.data.depth = config.data.patch_size = 16
        untrained.save(folder / name, config)
    return folder


@pytest.mark.parametrize("size", [STORED, SIZE])
@pytest.mark.parametrize("layout", ["trainA_trainB", "side_by_side"])
def test_what_is_fed_is_what_evaluation_shows(tmp_path, layout, size):
    source = write_layout(tmp_path / "source", layout)
    options = {"stored_size": STORED, "test_fraction": 0.3, "validation_fraction": 0.3}
    prepare("mri_ct", source, tmp_path / "data", **options)
    data = ConfigDict(mri2ct.get_config().data.to_dict() | options)
    data.data_dir, data.image_size, data.batch_size = str(tmp_path / "data"), size, 4
    count = 0
    for split in prepared.SPLITS:
        examples = prepared.examples(data, split)
        for batch in pipeline.eval_batches(data, split):
            for index, image in zip(batch["index"], batch["source"], strict=True):
                if index < 0:
                    continue
                stem = f"{examples[index].patient}_slice{examples[index].slice_index}"
                fed = prepared_picture(pair(stem)[0], data)
                assert fed.dtype == image.dtype and fed.shape == image.shape
                assert np.abs(fed.astype(int) - image).max() <= (size != STORED)  # ties of rounding
                count += 1
    assert count == 18


def _grey(runs, mr):
    """The picture of synthetic CT that the run "2d" makes from an MR wider than high."""
    _, system, generator, _ = load_run(str(runs / "2d"), "best")
    rows, columns = mr.shape
    top = (columns - rows) // 2
    square = np.zeros((columns, columns))
    square[top : top + rows] = mr * 257.0
    small = np.rint(resized(np.rint(resized(square, STORED)), SIZE))
    apply = jax.jit(lambda source: generate(system, generator, source))
    fake = np.asarray(apply((small / 32767.5 - 1).astype(np.float32)[None, ..., None]))[0, ..., 0]
    hu = (fake + 1) / 2 * (WINDOW[1] - WINDOW[0]) + WINDOW[0]
    hu = resized(hu, columns)[top : top + rows]
    low, high = PICTURE_WINDOW
    return np.clip((hu - low) / (high - low) * 255, 0, 255)


def _read(path):
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return np.asarray(image).astype(float)


def test_a_picture_becomes_a_picture_of_its_size(runs, tmp_path):
    path = write(tmp_path, ["in", "ct"], "P1_slice3")
    output = tmp_path / "out" / "sct.png"
    predict(str(runs / "2d"), str(path), str(output))
    mr, _ = pair("P1_slice3")
    found, expected = _read(output), _grey(runs, mr)
    assert found.shape == mr.shape
    assert np.abs(found - expected).max() <= 1 and np.abs(found - expected).mean() < 0.3
    assert expected.std() > 5


def test_of_a_folder_all_sources_and_no_cts(runs, tmp_path, capsys):
    source, output = tmp_path / "source", tmp_path / "out"
    for folders in LAYOUTS["all_trainA"].values():
        write(source, folders, "P1_slice3")
    coloured = source / "more" / "P2.jpeg"
    coloured.parent.mkdir()
    Image.fromarray(pair("P2")[0]).convert("RGB").save(coloured)
    predict(str(runs / "2d"), str(source), str(output))
    results = [output / f"{of}.png" for of in ("more/P2", *(f"{s}A/P1_slice3" for s in SPLITS))]
    files = sorted(path for path in output.rglob("*") if path.is_file())
    assert files == sorted((*results, output / "files.csv"))
    told = capsys.readouterr().out.splitlines()[:-1]
    assert sorted(told) == sorted(map(str, results))
    with Image.open(coloured) as image:
        expected = _grey(runs, np.asarray(image.convert("L")))
    assert np.abs(_read(results[0]) - expected).max() <= 1


def test_where_volumes_are_pictures_are_passed_over(runs, tmp_path):
    source = tmp_path / "source"
    write(source, ["overview", "overview_ct"], "P1")
    values = np.repeat(pair("P1")[0][None], 3, 0)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(source / "mr.nrrd"))
    predict(str(runs / "2d"), str(source), str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["files.csv", "sct.nrrd"]
    table = (tmp_path / "out" / "files.csv").read_text()
    assert 'overview/P1.png,passed over,"a picture, which this run does not take"' in table


@pytest.mark.parametrize("learnt", ["volumes", "pictures"])
def test_a_run_takes_what_it_learnt_from(runs, tmp_path, learnt):
    workdir = shutil.copytree(runs / "2d", tmp_path / "run")
    (workdir / RECORD).write_text(json.dumps({"notes": [f"{SOURCES_NOTE}{learnt}"]}))
    write(tmp_path, ["pictures"], "P1")
    volume = sitk.GetImageFromArray(np.repeat(pair("P1")[0][None], 3, 0))
    sitk.WriteImage(volume, str(tmp_path / "mr.nrrd"))
    other, given = ("mr.nrrd", "volumes") if learnt == "pictures" else ("pictures", "pictures")
    said = f"the input is of {given}, and this run learnt from {learnt}"
    with pytest.raises(ConfigError, match=said):
        predict(str(workdir), str(tmp_path / other), str(tmp_path / "out"))
    path = next((tmp_path / "pictures").iterdir()) if learnt == "volumes" else tmp_path / other
    with pytest.raises(ConfigError, match=said):
        jax_pix2pix.load(workdir).predict(path)


@pytest.mark.parametrize(
    ("run", "given", "options", "message"),
    [
        ("context", "a.png", {}, "config.data.context is 1, but images have no neighbours"),
        ("3d", "a.png", {}, "config.data.depth is 16, but images have no neighbours"),
        ("2d", "a.png", {"mask": "a.png"}, "mask and reference are of volumes"),
        ("2d", "a.png", {"reference": "a.png"}, "mask and reference are of volumes"),
        ("2d", "a.png", {"output": "a.png"}, "a.png would be replaced by the result"),
        ("2d", "a.png", {"largest_components": 1}, "is of runs that make masks"),
        ("2d", "cut.jpg", {}, "cut.jpg cannot be read as a JPEG image"),
        ("2d", "dark.png", {}, "dark.png holds no values but 0 and 1"),
        ("2d", "wide.png", {}, "wide.png is not 8-bit grey or RGB but mode I;16"),
        ("2d", "same", {}, "would both become"),
        ("2d", "same", {"output": "sct.png"}, "is one file and"),
        ("2d", "cts", {}, "holds pictures in B, testB, trainB, valB only"),
        ("2d", "empty", {}, "this run takes .nii, .nii.gz, .mha, .mhd, .nrrd, pictures (.png"),
        ("2d", "absent.png", {}, "absent.png does not exist"),
    ],
)
def test_refusals(runs, tmp_path, run, given, options, message):
    write(tmp_path, [".", "cts/trainB"], "a")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(np.eye(24, 32).astype(np.uint8)).save(tmp_path / "dark.png")
    for ending in (".png", ".jpg"):
        write(tmp_path, ["same", "others"], "a", ending)
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = {"output": "out"} | options
    files = {key: str(tmp_path / x) if isinstance(x, str) else x for key, x in arguments.items()}
    with pytest.raises((ConfigError, DataError)) as caught:
        predict(str(runs / run), str(tmp_path / given), **files)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
