"""launch.evaluate of synthetic CT on several patients, recomputed from their files."""

import csv
import html.parser
import json

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import jax_pix2pix
from configs import mri2ct, mri2ct_3d
from input_pipeline import pipeline, prepared
from input_pipeline.dataset import Dataset
from input_pipeline.prepare import options_of, prepare
from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation import synthesis
from jax_pix2pix.evaluation.evaluate import evaluate
from jax_pix2pix.metrics.controls import does_not_tell
from jax_pix2pix.metrics.dose import SCORES
from jax_pix2pix.metrics.sct_scores import score_ct
from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.runs.workdir_files import SOURCES_NOTE
from tests import commands, untrained
from tests.input_pipeline import pairs

pytestmark = pytest.mark.slow

SIDE = 40  # of the planes, so that nothing is resized
PATIENTS = ("1BA001", "1BA002", "1BB003", "1BB004", "1BC005", "1BC006", "1BC007", "1BC008")
WITH_GAP = "1BC005"  # in training; a slice in its middle has no body
KINDS = ("2d", "2.5d", "3d")


def _config(kind, data_dir):
    config = (mri2ct_3d if kind == "3d" else mri2ct).get_config()
    data = config.data
    data.data_dir, data.image_size, data.batch_size = str(data_dir), SIDE, 4
    data.test_fraction = data.validation_fraction = 0.3
    data.patch_size, data.depth = 0, 4 if kind == "3d" else 0
    data.context = 1 if kind == "2.5d" else 0
    config.generator.width = config.discriminator.width = 4
    config.generator.depth = 2 if kind == "3d" else 3
    config.generator.norm = config.discriminator.norm = "instance"
    config.discriminator.strided_levels = 1
    return config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A SynthRAD folder, prepared once for all kinds."""
    folder = tmp_path_factory.mktemp("source") / "Task1" / "brain"
    for seed, name in enumerate(PATIENTS):
        pairs.write_pair(folder / name, seed)
    path = str(folder / WITH_GAP / "mask.nii.gz")
    mask = sitk.ReadImage(path)
    mask[:, :, 3] = 0
    sitk.WriteImage(mask, path)
    return folder


@pytest.fixture(scope="module")
def runs(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    configs = {kind: _config(kind, folder / "data") for kind in KINDS}
    data = configs["2d"].data
    prepare(data.dataset, source.parents[1], data.data_dir, **options_of(data))
    return {kind: untrained.save(folder / kind, config) for kind, config in configs.items()}


@pytest.fixture(scope="module")
def written(runs):
    """(folder of the command's results, its output)."""
    workdir = runs["2d"]
    out, _ = commands.run("launch.evaluate", f"--workdir={workdir}", "--split=train")
    return workdir / "evaluation", out


@pytest.fixture(scope="module")
def results(written):
    return json.loads((written[0] / "train.json").read_text())


def _volumes(source, patient):
    """(ct, mask) as [slices with body, SIDE, SIDE]; planes are padded to squares with air."""
    folder = source / patient
    ct, mask = (pairs.pictures(folder / f"{name}.nii.gz") for name in ("ct", "mask"))
    sides = [(0, 0), (0, 0), ((SIDE - ct.shape[2]) // 2,) * 2]
    body = mask.any((1, 2))
    ct = np.pad(ct, sides, constant_values=-1024)[body]
    return ct, np.pad(mask, sides)[body] > 0


def _predictions(config, system, generator, split):
    """HU of every slice [n, SIDE, SIDE], computed slice by slice without the command's code."""
    found = {}
    for batch in pipeline.eval_batches(config.data, split):
        fake = np.asarray(generate(system, generator, system.normalise(batch)[0]))
        low, high = config.data.window_hu
        for place in np.argwhere(batch["index"] >= 0):
            hu = (fake[tuple(place)][..., 0] + 1) / 2 * (high - low) + low
            found[int(batch["index"][tuple(place)])] = np.rint(hu)
    return np.stack([found[i] for i in sorted(found)])


def _patients(config, split):
    """{patient: numbers of its slices} in the order of the records."""
    found = {}
    for number, example in enumerate(prepared.examples(config.data, split)):
        found.setdefault(example.patient, []).append(number)
    return found


@pytest.fixture(scope="module")
def evaluated(runs):
    """{kind: results of the test split}."""
    loaded = {kind: jax_pix2pix.load(workdir) for kind, workdir in runs.items()}
    return {kind: evaluate(run, Dataset(run.config.data)).results for kind, run in loaded.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_of_the_files(runs, evaluated, source, kind):
    config, system, generator, _ = load_run(runs[kind], "best")
    results = evaluated[kind]
    predicted = _predictions(config, system, generator, "test")
    cases = results["results"]["model"]["cases"]
    patients = _patients(config, "test")
    assert [case["patient"] for case in cases] == list(patients) and len(patients) > 1
    for case, (patient, numbers) in zip(cases, patients.items(), strict=True):
        ct, mask = _volumes(source, patient)
        assert case["images"] == len(ct) == len(numbers)
        error = np.abs(predicted[numbers] - ct)[mask].mean()
        assert case["synthrad2023.mae"] == pytest.approx(error, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_protocol_says_how_blocks_of_slices_were_made(evaluated, kind):
    grid = evaluated[kind]["protocols"]["grid"]
    assert ("runs of 4 slices at this size that do not overlap" in grid) == (kind == "3d")
    assert "40 x 40" in grid


def test_every_score_is_of_the_assembled_volumes(results, runs, source):
    config, system, generator, _ = load_run(runs["2d"], "best")
    predicted = _predictions(config, system, generator, "train")
    patients = _patients(config, "train")
    for case in results["results"]["model"]["cases"]:
        ct, mask = _volumes(source, case["patient"])
        spacing_mm = None if case["patient"] == WITH_GAP else (2.5, 1.3, 1.1)
        expected = score_ct(ct, predicted[patients[case["patient"]]], mask, spacing_mm)
        for name, value in expected.items():
            found = np.nan if case[name] is None else case[name]
            assert found == pytest.approx(value, rel=1e-3, abs=2e-3, nan_ok=True), name


def test_sagittal_slices_are_scored_as_axial_volumes(source, tmp_path):
    config = _config("2d", tmp_path / "data")
    config.data.plane = "sagittal"
    data = config.data
    prepare(data.dataset, source.parents[1], data.data_dir, **options_of(data))
    run = jax_pix2pix.load(untrained.save(tmp_path / "run", config))
    results = evaluate(run, Dataset(run.config.data)).results
    predicted = _predictions(run.config, run.system, run.generator, "test")
    for case in results["results"]["model"]["cases"]:
        folder = source / case["patient"]
        ct, mask = (pairs.pictures(folder / f"{name}.nii.gz") for name in ("ct", "mask"))
        columns = mask.any((0, 1))
        # The plane of 9 x 40 voxels is padded to 40 x 40, with 15 voxels above and 16 below.
        rows = [(16, 15), (0, 0), (0, 0)]
        ct = np.pad(ct, rows, constant_values=-1024)[..., columns]
        mask = np.pad(mask, rows)[..., columns] > 0
        numbers = _patients(config, "test")[case["patient"]]
        sct = np.moveaxis(predicted[numbers], 0, 2)[::-1]
        expected = score_ct(ct, sct, mask, (2.5, 1.3, 1.1))
        for name, value in expected.items():
            found = np.nan if case[name] is None else case[name]
            assert found == pytest.approx(value, rel=1e-3, abs=2e-3, nan_ok=True), name


def test_baselines_know_the_training_split_alone(results, runs, source):
    config, *_ = load_run(runs["2d"], "best")
    volumes = [_volumes(source, patient) for patient in _patients(config, "train")]
    ct, mask = (np.concatenate(parts) for parts in zip(*volumes, strict=True))
    mean = np.ma.array(ct, mask=~mask, dtype=np.float64).mean(0).filled(ct[mask].mean())
    baseline = results["results"]["mean_ct"]
    for case, (hu, body) in zip(baseline["cases"], volumes, strict=True):
        expected = np.abs(mean - hu)[body].mean()
        assert case["synthrad2023.mae"] == pytest.approx(expected, rel=1e-6)
    errors = [case["synthrad2023.mae"] for case in baseline["cases"]]
    assert baseline["overall"]["synthrad2023.mae"]["mean"] == pytest.approx(np.mean(errors))
    low, high = baseline["overall"]["synthrad2023.mae"]["interval_95"]
    assert min(errors) <= low < np.mean(errors) < high <= max(errors)
    assert "tissue_regression" in results["results"]
    assert set(results["baselines"]) == {"mean_ct", "tissue_regression"}


def test_baselines_are_the_same_for_every_kind_of_network(evaluated):
    for name in ("mean_ct", "tissue_regression"):
        errors = [
            [case["synthrad2023.mae"] for case in evaluated[kind]["results"][name]["cases"]]
            for kind in KINDS
        ]
        assert min(errors[0]) > 1 and len(errors[0]) > 1
        np.testing.assert_allclose(errors[1:], [errors[0]] * 2, rtol=1e-9)


def test_a_slice_that_is_missing_leaves_out_distances_and_doses(results):
    for case in results["results"]["model"]["cases"]:
        lacks = case["patient"] == WITH_GAP
        for name in ("soft_tissue.hd95_mm", "gamma_2_2", "delta_dmean"):
            assert (case[name] is None) == lacks, (case["patient"], name)
    overall = results["results"]["model"]["overall"]["gamma_2_2"]
    assert overall["undefined"] == 1 and overall["mean"] is not None


def test_controls_of_the_real_ct_stand_beside_every_model(results, written, source):
    """The same for all models, and marks where a control reaches a score too."""
    case = next(c for c in results["results"]["model"]["cases"] if c["patient"] != WITH_GAP)
    ct, mask = _volumes(source, case["patient"])
    wrong = score_ct(ct, np.where(mask, 0, ct), mask, (2.5, 1.3, 1.1))
    place = [c["patient"] for c in results["results"]["model"]["cases"]].index(case["patient"])
    water = results["controls"]["water"]["cases"][place]
    assert water == {"patient": case["patient"]} | {name: wrong[name] for name in SCORES}
    for model, found in results["results"].items():
        assert found["cases"][place]["delta_d98.best_control"] == case["delta_d98.best_control"]
        for name in SCORES:
            marked = found["overall"][name]["does_not_tell"]
            judged = [c for c in found["cases"] if c[name] is not None]
            assert marked == (name in does_not_tell(judged)), (model, name)
    assert any(results["results"]["mean_ct"]["overall"][name]["does_not_tell"] for name in SCORES)
    folder, out = written
    assert "control: water" in out and ", does not tell" in out
    page = (folder / "train.html").read_text()
    assert "<th>control: water</th>" in page and ", does not tell</td>" in page


def test_table_has_a_row_a_patient_and_model(written, results):
    with open(written[0] / "train.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {"model": model} | case
        for model, found in results["results"].items()
        for case in found["cases"]
    ]
    every = dict.fromkeys(expected[0])
    expected += [
        every | {"model": f"control: {name}"} | case
        for name, found in results["controls"].items()
        for case in found["cases"]
    ]
    assert len(rows) == len(expected)
    for row, case in zip(rows, expected, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in case.items()}


class _Page(html.parser.HTMLParser):
    """The references and the words of a page."""

    def __init__(self, text):
        super().__init__()
        self.references, self.words, self.pictures = [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.pictures += tag == "img"
        self.references += [value for name, value in attrs if name in ("src", "href")]
        assert tag not in ("script", "link")

    def handle_data(self, data):
        self.words += data


def test_report_is_one_page_with_all_patients(written, results):
    page = _Page((written[0] / "train.html").read_text())
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    cases = results["results"]["model"]["cases"]
    assert page.pictures == 2 * len(cases) - 1  # the case with a gap has no dose curves
    for case in cases:
        assert f"{case['patient']}, {case['images']} slices" in page.words
    for text in (*results["protocols"].values(), *results["baselines"].values()):
        assert text in page.words
    assert "not a treatment plan" in page.words and "step 7" in page.words


def test_names_every_file_that_it_writes(written):
    folder, out = written
    for name in ("train.json", "train.csv", "train.html", "train.png"):
        assert str(folder / name) in out
    with Image.open(folder / "train.png") as picture:
        assert picture.width > 500 and len(np.unique(np.asarray(picture))) > 50
    assert "tissue_regression" in out and "gamma_2_2" in out


class _Shifted(Dataset):
    """The data under pseudonyms, as by someone who left HU + 1024 in the files."""

    def examples(self, split):
        return [e._replace(file_name=f"P-1/F-{e.slice_index}") for e in super().examples(split)]

    def eval_batches(self, split, *args, **options):
        for batch in super().eval_batches(split, *args, **options):
            yield batch | {"target": batch["target"] + 1024}


def test_volumes_under_pseudonyms_are_in_hu_too(runs):
    run = jax_pix2pix.load(runs["2d"])
    with pytest.raises(DataError, match=r"^the prepared CT of .* are no HU .* HU \+ 1024"):
        evaluate(run, _Shifted(run.config.data))
    run.source_notes = [f"{SOURCES_NOTE}pictures"]  # by their window, as preparation checked
    evaluate(run, _Shifted(run.config.data))


def test_spacing_follows_the_size_of_the_images(runs):
    config, *_ = load_run(runs["2d"], "best")
    config.data.unlock()
    examples = [e for e in prepared.examples(config.data, "train") if e.patient != WITH_GAP]
    examples = [e for e in examples if e.patient == examples[0].patient]
    config.data.image_size = SIDE // 2
    assert synthesis.spacing_of(config.data, examples) == pytest.approx((2.5, 2.6, 2.2))
    unknown = [examples[0]._replace(spacing_mm=(0, 0, 0))]
    assert synthesis.spacing_of(config.data, unknown) is None


def test_flags_of_masks_are_refused(runs):
    arguments = [f"--workdir={runs['2d']}", "--largest_components=1"]
    _, err = commands.run("launch.evaluate", *arguments, code=1, variables=untrained.QUIET)
    assert "largest_components is of" in commands.error_line(err)
