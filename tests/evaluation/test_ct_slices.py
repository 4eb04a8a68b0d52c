"""launch.evaluate and launch.predict on a run of a few steps, recomputed with NumPy and PIL."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from jax_pix2pix.errors import DataError, WorkdirError
from jax_pix2pix.evaluation import slices
from jax_pix2pix.runs.workdir import build_system, load_run
from launch.predict import predict
from tests import commands
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

SAMPLE = commands.ROOT / "input_pipeline" / "samples" / "chest_ct"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, sample_data_dir):
    workdir = tmp_path_factory.mktemp("run")
    full_size = {"data.image_size": 128}
    commands.run("launch.train", *commands.tiny_training(workdir, sample_data_dir, **full_size))
    return workdir


@pytest.fixture(scope="module")
def results(workdir):
    out, _ = commands.run("launch.evaluate", f"--workdir={workdir}")
    assert str(workdir / "evaluation" / "test.png") in out
    return json.loads((workdir / "evaluation" / "test.json").read_text())


@pytest.fixture(scope="module")
def predictions(workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp("predictions")
    commands.run(
        "launch.predict", f"--workdir={workdir}", f"--input={SAMPLE / 'test'}", f"--output={output}"
    )
    return output


def _test_slices():
    """(CT, mask path) of the test patient, uint8 [128, 128]."""
    for path in sorted((SAMPLE / "test").glob("*/*_slice_*.png")):
        kind = "combined" if path.parent.name == "with_nodules" else "lung"
        mask = path.with_name(path.name.replace("_slice_", f"_{kind}_mask_")).with_suffix(".npy")
        yield np.asarray(Image.open(path)), mask


def test_predictions_reproduce_the_scores(results, predictions):
    """The PNGs that predict wrote have the scores of evaluate, up to rounding to 8 bits."""
    errors, ratios = [], []
    for ct, mask in _test_slices():
        path = predictions / mask.relative_to(SAMPLE / "test").with_suffix(".png")
        fake = np.asarray(Image.open(path))
        assert fake.shape == (128, 128) and fake.dtype == np.uint8
        errors.append(np.abs(fake.astype(float) - ct).mean())
        ratios.append(peak_signal_noise_ratio(ct, fake, data_range=255))
    model = results["results"]["model"]["overall"]
    assert model["images"] == len(errors) == 41
    assert model["mae_8bit"] == pytest.approx(np.mean(errors), abs=0.3)
    assert model["mae_hu"] == pytest.approx(model["mae_8bit"] * 1400 / 255, rel=1e-5)
    assert model["psnr"] == pytest.approx(np.mean(ratios), abs=0.05)


def test_baselines_are_what_they_say(results, sample_data_dir):
    """They are recomputed from the training split's files, without TensorFlow or JAX."""
    manifest = next(sample_data_dir.rglob("manifest.csv")).read_text().splitlines()[1:]
    names = [line.split(",")[2] for line in manifest if line.startswith("train,")]
    cts = np.stack([np.asarray(Image.open(SAMPLE / name)) for name in names]).astype(float)
    masks = np.stack(
        [
            np.load((SAMPLE / name.replace("_slice_", "_lung_mask_")).with_suffix(".npy"))
            for name in names
        ]
    )
    slope, intercept = np.polyfit(masks.ravel().astype(float), cts.ravel(), 1)
    mean_ct = cts.mean(0)
    test = [(ct.astype(float), np.load(mask).astype(float)) for ct, mask in _test_slices()]
    expected = {
        "mean_training_target": np.mean([np.abs(mean_ct - ct).mean() for ct, _ in test]),
        "scaled_source": np.mean([np.abs(slope * m + intercept - ct).mean() for ct, m in test]),
    }
    for name, value in expected.items():
        assert results["results"][name]["overall"]["mae_8bit"] == pytest.approx(value, rel=1e-4)


def test_baselines_and_pictures_of_neighbouring_slices_are_of_the_middle_one():
    system = build_system(tiny_config())
    rng = np.random.default_rng(0)
    sources = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {"target": sources[..., 1:2] // 2 + 9, "index": np.arange(4)}
    scores, rows = [], []
    for source in (sources, sources[..., 1:2]):
        batches = [batch | {"source": source}]
        statistics = slices.training_statistics(system, batches)
        scores.append(slices.score_baselines(system, statistics, batches)[1])
        images = system.normalise(batches[0])
        rows.append(system.task.row(*(np.asarray(images[i][0]) for i in (0, 1, 1))))
    np.testing.assert_equal(*scores)
    assert scores[0]["scaled_source"]["mae_8bit"].max() < 0.5  # from the division by 2
    np.testing.assert_array_equal(*rows)


def test_results_name_protocols_patients_and_checkpoint(results, workdir):
    assert set(results["protocols"]) == {"ssim", "psnr", "mae_8bit", "mae_hu"}
    assert "sigma 1.5" in results["protocols"]["ssim"]
    assert "[-1000, 400]" in results["protocols"]["mae_hu"]
    model = results["results"]["model"]
    assert model["by_group"] == {"PR-LUNG1-0001": model["overall"]}  # one test patient
    assert results["step"] in (10, 20) and results["checkpoint"] == "best"
    with Image.open(workdir / "evaluation" / "test.png") as picture:
        assert picture.width == 4 * 164 + 4 and picture.height > 6 * 160


def test_other_splits_and_checkpoints(workdir):
    arguments = [f"--workdir={workdir}", "--split=validation", "--checkpoint=20"]
    commands.run("launch.evaluate", *arguments)
    results = json.loads((workdir / "evaluation" / "validation.json").read_text())
    trained = commands.metrics(workdir, "validation")[-1]
    overall = results["results"]["model"]["overall"]
    assert results["step"] == trained["step"] == 20
    for name in ("ssim", "psnr", "mae_hu"):
        assert overall[name] == pytest.approx(trained[name], rel=1e-4)


def test_predict_one_file(workdir, predictions, tmp_path):
    _, mask = next(_test_slices())
    commands.run(
        "launch.predict", f"--workdir={workdir}", f"--input={mask}", f"--output={tmp_path}"
    )
    (path,) = tmp_path.iterdir()
    together = predictions / mask.relative_to(SAMPLE / "test").with_suffix(".png")
    assert path.name == mask.with_suffix(".png").name
    difference = np.asarray(Image.open(path)).astype(int) - np.asarray(Image.open(together))
    assert np.abs(difference).max() <= 1


def test_a_checkpoint_that_is_not_there_is_named(workdir):
    with pytest.raises(WorkdirError, match='no checkpoint "7"; use best, last or'):
        load_run(str(workdir), "7")


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("absent.npy", "o", "absent.npy"),
        ("no", "o", "holds no .npy"),
        ("bad.npy", "o", "bad.npy"),
        ("", ".", "give another"),
    ],
)
def test_refusals(workdir, tmp_path, source, output, message):
    np.save(tmp_path / "bad.npy", np.array([{"an": "object"}]), allow_pickle=True)
    (tmp_path / "no").mkdir()
    with pytest.raises(DataError, match=re.escape(message)):
        predict(str(workdir), str(tmp_path / source), str(tmp_path / output))


def test_damaged_config_is_named(workdir, tmp_path):
    (tmp_path / "config.json").write_text("{")
    _, err = commands.run("launch.evaluate", f"--workdir={tmp_path}", code=1)
    assert f"{Path(tmp_path) / 'config.json'} is not valid JSON" in commands.error_line(err)


@pytest.mark.parametrize(
    "content", ["{}", '{"dtype": "float32"}', '{"epochs": "many"}', '{"data": 1}', '{"loss": []}']
)
def test_a_config_without_its_fields_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    path = tmp_path / "config.json"
    with pytest.raises(
        WorkdirError, match=f"{path}( does not hold the config of a run|: config.epochs=)"
    ):
        load_run(str(tmp_path), "last")
