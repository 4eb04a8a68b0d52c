"""The library as a notebook calls it: a run is opened once, and predicts, scores and samples."""

import logging
import re
import shutil

import jax
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import jax_pix2pix
from configs import ct_pyramid_3d, liver, mri2ct, xray_lungs
from input_pipeline import Dataset
from input_pipeline.prepared import SAMPLES
from jax_pix2pix.errors import ConfigError, DataError, WorkdirError
from jax_pix2pix.inference.folders import predict_files
from tests import commands, untrained
from tests.imaging.test_dicom import SPACING_MM, write_slice

SHAPE = (30, 26, 9)  # of the file's axes
AFFINE = np.array([[-1.2, 0, 0, 40], [0, -1.3, 0, 7], [0, 0, 2.5, -90], [0, 0, 0, 1]])


def _small(config, **data):
    config.data.image_size = config.data.stored_size = 32
    config.data.update(data)
    config.generator.width = config.discriminator.width = 4
    config.ema_decay = 0.0  # else the average, which is 0 without training, predicts
    return config


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """The workdirs of the runs "mr", "ct" and "xray"."""
    folder = tmp_path_factory.mktemp("runs")
    xray = _small(xray_lungs.get_config("quickstart"))
    xray.generator.depth = 5
    configs = {
        "mr": _small(mri2ct.get_config("quickstart"), window_hu=(-1024, 1000)),
        "ct": _small(liver.get_config("quickstart")),
        "xray": xray,
    }
    return {name: untrained.save(folder / name, config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def runs(workdirs):
    return {name: jax_pix2pix.load(workdir) for name, workdir in workdirs.items()}


@pytest.fixture(scope="module")
def voxels():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij"))
    inside = (grid**2).sum(0) < 1
    return (inside * (400 + 100 * rng.normal(size=SHAPE))).astype(np.int16)


@pytest.fixture
def path(tmp_path, voxels):
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


class _Compiled(logging.Handler):
    """Counts the programs that JAX compiles in a block."""

    def __enter__(self):
        self.count = 0
        jax.config.update("jax_log_compiles", True)
        logging.getLogger("jax").addHandler(self)
        return self

    def emit(self, record):
        self.count += record.getMessage().startswith("Finished XLA compilation")

    def __exit__(self, *_):
        logging.getLogger("jax").removeHandler(self)
        jax.config.update("jax_log_compiles", False)


def test_a_run_is_compiled_once(workdirs, path, voxels):
    run = jax_pix2pix.load(workdirs["mr"])
    with _Compiled() as first:
        one = run.predict(path)
    with _Compiled() as second:
        two = run.predict(voxels, affine=AFFINE)
    assert first.count > 0 and second.count == 0
    np.testing.assert_array_equal(one.values, two.values)


def test_a_volume_may_come_in_any_form(runs, path, voxels):
    """Each form gives the same result, on the same voxels."""
    image = nib.load(path)
    given = [path, str(path), image, jax_pix2pix.read_volume(path)]
    found = [runs["mr"].predict(one) for one in given]
    found.append(runs["mr"].predict(voxels, affine=AFFINE))
    for one in found:
        assert one.values.dtype == np.int16 and one.unit == "HU"
        np.testing.assert_array_equal(one.values, found[0].values)
        np.testing.assert_allclose(one.geometry.affine, image.affine)
        np.testing.assert_allclose(one.spacing_mm, (2.5, 1.3, 1.2))
    assert found[0].body_from.startswith(f"Otsu's threshold of {path}")
    assert found[-1].body_from.startswith("Otsu's threshold of the array")
    # Slices run from the feet, rows from the front, columns from the right.
    back = found[0].to_nibabel()
    np.testing.assert_array_equal(np.asarray(back.dataobj).T, found[0].values)


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int16])
def test_a_body_may_be_given(runs, path, voxels, dtype):
    half = (voxels > 0).astype(dtype) * dtype(255 if dtype is np.int16 else 1)
    half[:15] = 0
    found = runs["mr"].predict(voxels, affine=AFFINE, mask=half)
    assert found.body_from == "the array that was given"
    assert found.body.sum() == (half > 0).sum()
    of_file = runs["mr"].predict(path, mask=half)  # in the axes of the file
    np.testing.assert_array_equal(of_file.values, found.values)
    assert (found.values != runs["mr"].predict(voxels, affine=AFFINE).values).any()


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
def test_a_result_is_saved_in_any_format(runs, path, tmp_path, ending):
    found = runs["mr"].predict(path)
    (written,) = found.save(tmp_path / "deep" / f"sct.{ending}")
    saved = sitk.ReadImage(written)
    assert saved.GetSpacing() == pytest.approx((1.2, 1.3, 2.5))
    assert jax_pix2pix.read_volume(written, "ct").values.tolist() == found.values.tolist()


def test_a_result_shows_itself(runs, path, tmp_path):
    found = runs["mr"].predict(path)
    (tmp_path / "shown.png").write_bytes(found._repr_png_())
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.width > picture.height and len(np.unique(np.asarray(picture))) > 50
    assert found.picture(number=2).size == found.picture().size


def test_scores_of_a_synthetic_ct(runs, path, tmp_path):
    found = runs["mr"].predict(path)
    ct = np.clip(found.values.astype(int) + 10, -1024, 3000).astype(np.int16)
    nib.save(nib.Nifti1Image(found.geometry.to_file(ct), AFFINE), tmp_path / "ct.nii")
    scores = runs["mr"].score(found, tmp_path / "ct.nii")
    assert scores["synthrad2023.mae"] == pytest.approx(10, abs=1e-3)
    of_array = runs["mr"].score(found, found.geometry.to_file(ct), affine=AFFINE)
    assert of_array["synthrad2023.psnr"] == scores["synthrad2023.psnr"]
    anywhere = jax_pix2pix.score_ct(ct, found.values, found.body > 0, found.spacing_mm)
    assert anywhere["bone.dice"] == pytest.approx(scores["bone.dice"], nan_ok=True)
    with pytest.raises(DataError, match="is not on the voxels of the synthetic CT"):
        runs["mr"].score(found, found.geometry.to_file(ct), affine=np.diag([1.0, 1, 1, 1]))


def test_masks_of_a_dicom_folder_and_of_its_volume(runs, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "series"
    folder.mkdir()
    for number in range(4):
        pixels = rng.integers(-200, 300, (40, 40))
        write_slice(folder / f"{number}.dcm", pixels, (0, 0, SPACING_MM[0] * number))
    of_folder = runs["ct"].predict(folder)
    volume = jax_pix2pix.read_volume(folder, "ct")
    of_volume = runs["ct"].predict(volume, threshold=0.5)
    np.testing.assert_array_equal(of_folder.values, of_volume.values)
    assert of_folder.values.dtype == np.uint8 and of_folder.unit == "label"
    labels = of_folder.to_nibabel()
    assert runs["ct"].score(of_folder, labels)["liver.dice"] == 1
    assert jax_pix2pix.score_masks(of_folder.values > 0, of_volume.values > 0, None)["dice"] == 1
    of_folder.save(tmp_path / "mask.nii.gz")
    assert runs["ct"].score(of_folder, tmp_path / "mask.nii.gz")["liver.iou"] == 1


def test_masks_of_a_picture(runs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 64), np.uint8)
    found = runs["xray"].predict(pixels, mc_dropout=2)
    assert found.values.shape == (50, 64) and found.uncertainty.max() > 0
    written = found.save(tmp_path / "mask.png")
    assert [name.rpartition("/")[2] for name in written] == ["mask.png", "mask_uncertainty.png"]
    assert runs["xray"].score(found, tmp_path / "mask.png")["lungs.dice"] == 1
    with pytest.raises(ConfigError, match="a picture has no affine"):
        found.to_nibabel()


def test_scores_refuse_what_they_cannot_mean(runs, path, tmp_path):
    mask, sct = runs["ct"].predict(path), runs["mr"].predict(path)
    labels = mask.to_nibabel()
    odd = nib.Nifti1Image(np.asarray(labels.dataobj) * 0 + 7, labels.affine)
    twice = nib.Nifti1Image(np.asarray(labels.dataobj) * 255, labels.affine)
    assert runs["ct"].score(mask, twice)["liver.dice"] == 1
    for run, given, reference, message in (
        ("ct", mask, odd, "holds the values 7, and the regions are liver [1, 2]"),
        ("ct", sct, labels, "the prediction is in HU, and this run makes masks"),
        ("mr", "sct.nii.gz", path, "str is no Prediction"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            runs[run].score(given, reference)
    real = sct.geometry.to_file(np.linspace(-1000, 1000, sct.values.size).reshape(SHAPE[::-1]))
    for values, guess in ((real / 2000 + 0.5, "[0, 1]"), (real / 1000, "[-1, 1]")):
        for score in (
            lambda ct: runs["mr"].score(sct, ct, affine=AFFINE),
            lambda ct: jax_pix2pix.score_ct(ct, real, real > -999, None),
            lambda ct: runs["ct"].predict(ct, affine=AFFINE),
        ):
            with pytest.raises(DataError, match=re.escape(f"scaled to {guess}")):
                score(values)
    bools = np.ones((3, 8), bool)
    with pytest.raises(ValueError, match="use bool of one shape"):
        jax_pix2pix.score_masks(bools, bools[:1], None)
    with pytest.raises(ValueError, match="use bool of one shape"):
        jax_pix2pix.score_masks(bools * 255, bools, None)


def test_results_go_into_files_of_their_kind(runs, path, tmp_path):
    picture = runs["xray"].predict(np.full((8, 8), 90, np.uint8))
    for name in ("mask.jpg", "mask", "mask.nii.gz"):
        with pytest.raises(DataError, match=r"must end in \.png"):
            picture.save(tmp_path / name)
    volume = runs["mr"].predict(path)
    with pytest.raises(DataError, match=r"must end in \.nii"):
        volume.save(tmp_path / "sct.png")
    with pytest.raises(DataError, match="is in a store"):
        volume.save("s3://bucket/sct.nii.gz")
    with pytest.raises(ConfigError, match="number=99: use 0 to 8"):
        volume.picture(99)
    with pytest.raises(DataError, match=r"is the name of a file, and this run writes \.nii, "):
        predict_files(runs["ct"], path, tmp_path / "mask.png")
    assert [name.name for name in tmp_path.iterdir()] == ["head.nii.gz"]


def test_a_run_is_judged_on_its_own_data(workdirs):
    run = jax_pix2pix.load(workdirs["ct"])
    other = run.config.data.copy_and_resolve_references()
    other.source_range = (0, 1)
    with pytest.raises(ConfigError, match=r"config\.data\.source_range is .* in the run and"):
        jax_pix2pix.evaluate(run, Dataset(other))
    with pytest.raises(ConfigError, match="threshold is no option of an evaluation"):
        jax_pix2pix.evaluate(run, Dataset(run.config.data), threshold=0.5)


def test_progress_is_told(runs, path):
    told = []
    runs["mr"].predict(path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]  # nine slices, one batch


@pytest.mark.parametrize(
    ("run", "given", "options", "message"),
    [
        ("mr", "absent.nii", {}, "absent.nii cannot be read"),
        ("mr", np.zeros(SHAPE), {}, "give affine="),
        ("mr", np.zeros((3, 3)), {"affine": np.eye(4)}, "three dimensions"),
        ("mr", np.full(SHAPE, np.nan), {"affine": np.eye(4)}, "holds no numbers"),
        ("mr", np.zeros(SHAPE), {"affine": np.eye(3)}, "affine has the shape"),
        ("mr", np.zeros(SHAPE), {"affine": np.zeros((4, 4))}, "voxels of 0 x 0 x 0 mm"),
        ("mr", np.zeros(SHAPE), {"affine": np.eye(4)}, "the array: there is nothing in the body"),
        ("mr", [1, 2], {}, "list is no volume"),
        ("mr", np.zeros((0, 3, 3)), {"affine": np.eye(4)}, "three dimensions of numbers"),
        ("mr", np.zeros(SHAPE), {"affine": "x"}, "affine holds no numbers"),
        ("mr", nib.Nifti1Image(np.ones(SHAPE), AFFINE), {"affine": AFFINE}, "has its own affine"),
        ("mr", "head.nii.gz", {"grid": "head.nii.gz"}, "grid is of runs with config.data.resample"),
        ("mr", "head.png", {"mask": np.ones(SHAPE)}, "mask, grid and affine are of volumes"),
        ("mr", "head.nii.gz", {"affine": np.eye(4)}, "has its own affine"),
        ("mr", "head.nii.gz", {"threshold": 0.5}, "threshold is no option of a run that makes"),
        ("mr", "", {}, "is a folder, but this takes a file"),
        ("ct", "", {}, "no DICOM"),
        ("ct", "head.nii.gz", {"threshold": 2.0}, "threshold=2.0: use 0 to 1"),
        ("xray", np.zeros((4, 4)), {}, "is no picture"),
        (
            "xray",
            np.zeros((4, 4, 3), np.uint8),
            {},
            "give a path, or an array of uint8, [rows, columns]",
        ),
        ("xray", "head.nii.gz", {}, "cannot be read as a PNG"),
    ],
)
def test_what_cannot_be_predicted_is_said(runs, path, run, given, options, message):
    given = path.parent / given if isinstance(given, str) else given
    with pytest.raises((ConfigError, DataError)) as caught:
        runs[run].predict(given, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_said(workdirs, tmp_path):
    with pytest.raises(WorkdirError, match=r"config\.json does not exist: is this the workdir"):
        jax_pix2pix.load(tmp_path / "no_run")
    with pytest.raises(WorkdirError, match='no checkpoint "0"'):
        jax_pix2pix.load(workdirs["ct"], checkpoint=0)
    with pytest.raises(WorkdirError, match='no checkpoint "9"; use best, last or one of 7'):
        jax_pix2pix.load(workdirs["ct"], checkpoint=9)
    shutil.copy(f"{workdirs['ct']}/config.json", tmp_path)
    with pytest.raises(WorkdirError, match="checkpoints does not exist: train first"):
        jax_pix2pix.load(tmp_path)


def test_a_pyramid_samples_and_nothing_else(runs, tmp_path):
    config = ct_pyramid_3d.get_config("quickstart")
    config.pyramid.max_size, config.pyramid.scale = config.pyramid.min_size, 0
    config.data.image_size = config.pyramid.min_size
    config.data.depth = config.pyramid.min_size // config.pyramid.depth_divisor
    config.generator.width = config.discriminator.width = 4
    run = jax_pix2pix.load(untrained.save(tmp_path / "run", config))
    one, two = run.sample(2, seed=3)
    assert run.checkpoint == "last" and one.values.dtype == np.int16
    assert (one.values != two.values).any()
    np.testing.assert_array_equal(run.sample(1, seed=3)[0].values, one.values)
    assert one._repr_png_()
    with pytest.raises(ConfigError, match="predicts nothing from an input: use sample"):
        run.predict("ct.nii")
    with pytest.raises(ConfigError, match="foo is no option of sample"):
        run.sample(1, foo=2)
    with pytest.raises(ConfigError, match="size=64: use D,H,W"):
        run.sample(1, size=64)
    with pytest.raises(ConfigError, match="give dataset="):
        run.sample(1, reconstruct=True)
    with pytest.raises(ConfigError, match=r"draws no samples: use predict\(\)"):
        runs["ct"].sample(1)


def test_a_data_set_is_one_object(sample_data_dir):
    data = liver.get_config("quickstart").data
    data.data_dir = str(sample_data_dir)
    dataset = Dataset(data, prepare=True)
    assert dataset.steps_per_epoch == dataset.num_training_examples // data.batch_size
    batch = next(dataset.train_batches(0, 1))
    assert batch["source"].shape[0] == data.batch_size
    assert len(dataset.patients("test")) == dataset.num_evaluation_examples("test")


@pytest.mark.slow
def test_no_name_of_a_file_is_in_a_bar(workdirs, path, tmp_path):
    shutil.copy(path, tmp_path / "Jane_Doe.nii.gz")
    arguments = [f"--workdir={workdirs['mr']}", f"--input={tmp_path / 'Jane_Doe.nii.gz'}"]
    output = f"--output={tmp_path / 'out'}"
    _, err = commands.run("launch.predict", *arguments, output, variables=untrained.QUIET)
    assert "1 of 1" in err and "Jane" not in err


def test_names_of_the_library():
    assert {"load", "read_volume", "score_ct", "score_masks"} <= set(dir(jax_pix2pix))
    for name in jax_pix2pix._PUBLIC:
        assert getattr(jax_pix2pix, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'open'"):
        jax_pix2pix.open  # noqa: B018
    assert SAMPLES.is_dir()


def test_the_lines_of_the_readme(workdirs, path, tmp_path, monkeypatch):
    text = (commands.ROOT / "README.md").read_text(encoding="utf-8")
    _, _, lines = text.partition("```python\n")
    lines, _, _ = lines.partition("```")
    assert len(list(filter(None, lines.splitlines()))) == 6
    (tmp_path / "runs").mkdir()
    shutil.copytree(workdirs["mr"], tmp_path / "runs" / "mri2ct")
    for name in ("mr", "ct"):
        shutil.copy(path, tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    assert (tmp_path / "sct.nii.gz").exists()
