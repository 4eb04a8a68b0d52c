"""launch.compare as a user runs it, against MONAI on the files themselves."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)

from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation.compare import compare, table
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics.bootstrap import bootstrap_interval
from tests import commands
from tests.masks import blobs, save


def _labels(rng, shape):
    """Labels: 0 outside, 1 liver, 2 tumour inside the liver."""
    liver = blobs(rng, shape, 0.3)
    return liver * np.where(blobs(rng, shape, 0.5), 2, 1).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def soft_edged(mask):
    """0 and 255, but for values on either side of 127 in the first row."""
    soft = np.where(mask, 255, 0).astype(np.uint8)
    soft[0] = np.where(mask[0], 128 + np.arange(24), 127 - np.arange(24))
    return soft


def _compare(folders, *arguments, code=0):
    predictions, references = folders
    return commands.run(
        "launch.compare",
        f"--predictions={predictions}",
        f"--references={references}",
        *arguments,
        code=code,
    )


def _results(folders, *arguments):
    path = folders[0].parent / "new" / "scores.json"
    out, _ = _compare(folders, f"--output={path}", *arguments)
    return out, json.loads(path.read_text())


def _expected(prediction, reference, spacing):
    """MONAI's scores of one pair of bool masks along the file's own axes."""
    pair = [torch.as_tensor(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    return {
        "dice": compute_dice(*pair, ignore_empty=False).item(),
        "iou": compute_iou(*pair, ignore_empty=False).item(),
        "hd95": compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        "assd": compute_average_surface_distance(*pair, symmetric=True, **options).item(),
        "sensitivity": (prediction & reference).sum() / reference.sum(),
        "specificity": (~prediction & ~reference).sum() / (~reference).sum(),
    }


def _without_unit(scores):
    left_out = ("patient", *(name for name in scores if name.endswith(".penalised")))
    return {name.split("_")[0]: value for name, value in scores.items() if name not in left_out}


def test_volumes(folders):
    """Scores by case and region, cases by number; the header's spacing holds for any file axes."""
    predictions, references = folders
    rng = np.random.default_rng(0)
    truth = {}
    for case in (2, 10, 9):
        labels = [_labels(rng, (16, 14, 9)) for _ in range(2)]
        save(predictions / f"volume-{case}.nii.gz", labels[0])
        save(references / f"segmentation-{case}.nii", labels[1])
        truth[str(case)] = labels
    (references / "notes.txt").write_text("is no mask")
    out, results = _results(folders, "--regions=liver:1+2,tumour:2")

    assert f"files of {references}: 3 used, 1 passed over (1 a text or a table: notes.txt)" in out
    rows = (folders[0].parent / "new" / "scores_files.csv").read_text().splitlines()
    assert rows[0] == "folder,file,what,why" and len(rows) == 1 + 3 + 4 == 1 + len(results["files"])
    assert f"{references},notes.txt,passed over,a text or a table" in rows
    out = out[out.index("liver  ") :]
    assert list(results["results"]) == ["liver", "tumour"]
    for region, values in (("liver", (1, 2)), ("tumour", (2,))):
        part = results["results"][region]
        assert list(part["by_case"]) == ["2", "9", "10"]
        for case, labels in truth.items():
            expected = _expected(*(np.isin(mask, values) for mask in labels), (0.8, 0.7, 2.5))
            scores = _without_unit(part["by_case"][case])
            assert scores == pytest.approx(expected, rel=1e-5, abs=1e-6)
        for metric, summary in part["overall"].items():
            by_case = [scores[metric] for scores in part["by_case"].values()]
            assert summary["mean"] == pytest.approx(np.mean(by_case), rel=1e-12)
            assert summary["interval_95"] == list(bootstrap_interval(by_case, range(3)))
            assert metric in results["protocols"] and metric in out
    assert set(results["protocols"]) == {*part["overall"], "penalised", "interval_95"}
    assert "in mm" in results["protocols"]["hd95_mm"] and "voxels" in results["protocols"]["dice"]
    assert results["regions"] == {"liver": "1+2", "tumour": "2"}
    first = results["results"]["liver"]["by_case"]["2"]
    shown = [f"{first[metric]:.4f}" for metric in results["results"]["liver"]["overall"]]
    assert out.splitlines()[1].split() == ["2", *shown]


def test_images(folders):
    """Soft edges are cut at 127, distances in pixels or in mm, patients by a pattern."""
    predictions, references = folders
    rng = np.random.default_rng(1)
    truth = {}
    for name in ("a_1", "a_2", "b_1"):
        masks = [blobs(rng, (20, 24)) for _ in range(2)]
        save(predictions / f"{name}.png", soft_edged(masks[0]))
        save(references / f"{name}.png", np.where(masks[1], 255, 0).astype(np.uint8))
        truth[name] = masks
    for spacing, unit, options in (
        ((1.0, 1.0), "pixels", []),
        ((0.5, 2.0), "mm", ["--spacing_mm=0.5,2"]),
    ):
        out, results = _results(folders, "--patient_pattern=([^_]+)", *options)
        part = results["results"]["foreground"]
        assert f"in {unit}" in results["protocols"][f"hd95_{unit}"] and f"assd_{unit}" in out
        for name, masks in truth.items():
            scores = part["by_case"][name]
            assert scores["patient"] == name[0]
            expected = _expected(*masks, spacing)
            assert _without_unit(scores) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        dice = [part["by_case"][name]["dice"] for name in truth]
        ends = sorted([np.mean(dice[:2]), dice[2]])
        assert part["overall"]["dice"]["interval_95"] == pytest.approx(ends)
        assert part["overall"]["dice"]["mean"] == pytest.approx(np.mean(dice))


@pytest.mark.parametrize("ending", [".png", ".nii.gz"])
def test_class_numbers_and_white_are_one_mask(folders, ending):
    """Masks of 0 and 1 that do not touch have Dice 0; a mask and itself in 0 and 255 have 1."""
    predictions, references = folders
    mask = np.zeros((6, 8, 3) if ending != ".png" else (6, 8), np.uint8)
    mask[:3] = 1
    save(predictions / f"apart{ending}", mask)
    save(references / f"apart{ending}", 1 - mask)
    save(predictions / f"same{ending}", mask)
    save(references / f"same{ending}", mask * 255)
    for regions in (None, "lung:1"):
        found = compare(*folders, regions)["results"]
        (part,) = found.values()
        assert {case: scores["dice"] for case, scores in part["by_case"].items()} == {
            "apart": 0, "same": 1
        }  # fmt: skip
    with pytest.raises(DataError, match="holds the values 0, 255, and the regions are a"):
        compare(*folders, "a:1,b:2")
    mask[0] = 2
    mask[5] = 255
    save(references / f"same{ending}", mask)
    with pytest.raises(DataError, match="holds the values 0, 1, 2, 255, and a mask of two"):
        compare(predictions, references)


def test_undefined_scores_are_left_out_and_counted(folders):
    predictions, references = folders
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 1:3] = 1
    for case, predicted in (("shifted", np.roll(mask, 1, axis=1)), ("missed", 0 * mask)):
        save(predictions / f"{case}.png", predicted)
        save(references / f"{case}.png", mask)
    out, results = _results(folders, "--regions=lung:1")
    part = results["results"]["lung"]
    assert part["by_case"]["missed"]["hd95_pixels"] is None
    assert part["by_case"]["missed"]["dice"] == 0
    diagonal = np.hypot(4, 5)
    assert part["by_case"]["missed"]["hd95_pixels.penalised"] == pytest.approx(diagonal)
    assert part["overall"]["hd95_pixels"] == {
        "mean": pytest.approx(0.95), "interval_95": None, "cases": 1, "undefined": 1,
        "with_penalty": pytest.approx((0.95 + diagonal) / 2), "cases_with_penalty": 2,
    }  # fmt: skip
    assert part["overall"]["dice"]["mean"] == 0.25 and part["overall"]["dice"]["undefined"] == 0
    defined, penalty, penalised = (line.split() for line in out.splitlines()[-5:-2])
    assert " ".join(defined) == f"cases where defined{' 2 of 2' * 4}{' 1 of 2' * 2}"
    assert penalty[:3] == ["mean", "with", "penalty"]
    assert penalty[3:] == ["0.2500", "0.1667", "-", "-", "3.6766", "3.4516"]
    assert " ".join(penalised) == "cases with penalty 2 of 2 2 of 2 - - 2 of 2 2 of 2"
    # A region that occurs nowhere.
    _, results = _results(folders, "--regions=heart:7")
    overall = results["results"]["heart"]["overall"]
    assert overall["sensitivity"]["mean"] is None and overall["sensitivity"]["undefined"] == 2


@pytest.mark.parametrize(
    ("ending", "arguments", "message"),
    [
        (".png", ["--regions=liver"], "regions=liver: 'liver' is not a new name and labels"),
        (".png", ["--regions=liver:1+256"], "'liver:1+256' is not"),
        (".png", ["--regions=liver:1,:2"], "':2' is not"),
        (".png", ["--regions=a:1,a:2"], "'a:2' is not a new name"),
        (".png", ["--spacing_mm=0.5"], "spacing_mm=0.5: use two positive numbers"),
        (".png", ["--spacing_mm=0.5,0"], "spacing_mm=0.5,0: use two positive numbers"),
        (".png", ["--geometry=sform"], "geometry is of volumes, and these are images"),
        (".nii", ["--spacing_mm=1,1"], "spacing_mm=1,1: use three numbers"),
        (".png", ["--patient_pattern=("], "patient_pattern=(: "),
        (".png", ["--patient_pattern=1"], "patient_pattern=1: it has no group: put (...)"),
        (".png", [f"--patient_pattern={'(' * 9000}"], "((: it is no pattern that can be used (max"),
        (".png", ["--patient_pattern=(x)"], "patient_pattern=(x) finds no patient in case 1"),
    ],
)
def test_refusals(folders, ending, arguments, message):
    """Refusals of files are those of input_pipeline.mask_pairs."""
    for folder in folders:
        save(folder / f"1{ending}", np.zeros((4, 5, 6) if ending == ".nii" else (4, 5), np.uint8))
    _, err = _compare(folders, *arguments, code=1)
    assert message in commands.error_line(err)


def test_a_bad_file_among_many_is_one_line(folders):
    """The error comes after cases that were scored, below a progress bar."""
    for folder in folders:
        for case in range(3):
            save(folder / f"{case}.png", np.zeros((4, 5), np.uint8))
    (folders[0] / "2.png").write_bytes(b"text")
    _, err = _compare(folders, code=1)
    assert "predictions/2.png cannot be read as a PNG, TIFF or GIF image" in commands.error_line(
        err
    )


def _compared(folders, **options):
    return compare(*map(str, folders), **options)


def test_a_case_of_unknown_spacing_has_no_distances(folders):
    rng = np.random.default_rng(0)
    for folder in folders:
        folder.mkdir()
        for case, affine in ((1, np.eye(4)), (2, np.diag([0.7, 0.8, 2.5, 1]))):
            labels = blobs(rng, (256, 256, 2), 0.3).astype(np.uint8)
            nib.save(nib.Nifti1Image(labels, affine), folder / f"{case}.nii")
    results = _compared(folders)
    assert results["spacing_unknown"] == ["1"]
    part = results["results"]["foreground"]
    assert "hd95_mm" not in part["by_case"]["1"] and part["by_case"]["2"]["hd95_mm"] > 0
    assert (part["overall"]["hd95_mm"]["cases"], part["overall"]["dice"]["cases"]) == (1, 2)
    *_, line = table(results).splitlines()
    assert line == f"{UNKNOWN} of 1; --spacing_mm=SLICES,ROWS,COLUMNS settles it"
    told = _compared(folders, spacing_mm="2.5,0.8,0.7")
    assert told["spacing_unknown"] == []
    labels = [np.asarray(nib.load(folder / "1.nii").dataobj) > 0 for folder in folders]
    expected = _expected(*labels, (0.7, 0.8, 2.5))
    found = _without_unit(told["results"]["foreground"]["by_case"]["1"])
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_masks_may_have_other_axes_and_two_affines(folders):
    rng = np.random.default_rng(0)
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    predicted, reference = (
        nib.Nifti1Image(blobs(rng, (9, 8, 7), 0.3).astype(np.uint8), affine) for _ in range(2)
    )
    for folder in folders:
        folder.mkdir()
    nib.save(reference, folders[1] / "1.nii")
    scores = []
    for turned in (predicted, predicted.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))):
        nib.save(turned, folders[0] / "1.nii")
        scores.append(_compared(folders)["results"])
    assert scores[0] == scores[1]
    predicted.set_qform(affine @ np.diag([1, 1, 2, 1]), 1)
    nib.save(predicted, folders[0] / "1.nii")
    with pytest.raises(DataError, match="--geometry=sform or --geometry=qform"):
        _compared(folders)
    _, results = _results(folders, "--geometry=sform")
    assert results["results"]["foreground"]["by_case"] == scores[0]["foreground"]["by_case"]
    for folder in folders:  # without directions: the spacing is stated, and the axes are given
        header = nib.load(folder / "1.nii").header
        values = np.array(nib.load(folder / "1.nii").dataobj)
        header["sform_code"] = header["qform_code"] = 0
        header["pixdim"][1:4] = (0.7, 0.8, 2.5)
        nib.Nifti1Image(values, None, header).to_filename(folder / "1.nii")
    found = _compared(folders, axes="LPS")["results"]["foreground"]["by_case"]
    assert found["1"] == pytest.approx(scores[0]["foreground"]["by_case"]["1"])
