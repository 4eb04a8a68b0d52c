"""Preparation of mri_ct from registered volumes, against SimpleITK's reading and resampling."""

import csv
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from configs import mri2ct
from input_pipeline.datasets.mri_ct import layouts
from input_pipeline.datasets.mri_ct import mri_ct_dataset_builder as mri_ct
from input_pipeline.pipeline import eval_batches
from input_pipeline.preparation.source_folder import SourceFolder
from input_pipeline.prepare import options_of, prepare, prepared_directory
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import mr_volumes
from tests import commands
from tests.input_pipeline.conftest import data_config, read_split
from tests.input_pipeline.pairs import (
    SHAPE,
    SPACING_MM,
    WITH_BODY,
    body,
    image,
    pictures,
    write_pair,
)

SIZE = 20  # half of the plane's longer side
OPTIONS = {"stored_size": SIZE, "test_fraction": 0.3, "validation_fraction": 0.3}
SPLITS = ("train", "validation", "test")
PATIENTS = {  # place below the source, ending, axes of the files, whether there is a mask
    "1BA001": ("Task1/brain", ".nii.gz", "LPS", True),
    "1BA002": ("Task1/brain", ".mha", "RAS", True),
    "1PA001": ("Task1/pelvis", ".nrrd", "PIR", True),
    "1PA002": ("Task1/pelvis", ".nii", "LPI", False),
}


@pytest.fixture
def source(tmp_path):
    """The layout of SynthRAD2023 and 2025, in all formats."""
    source = tmp_path / "source"
    for seed, (patient, (place, ending, axes, mask)) in enumerate(PATIENTS.items()):
        write_pair(source / place / patient, seed, ending, axes=axes, mask=mask)
    overview = source / "Task1/brain/overview"
    overview.mkdir()
    (overview / "1BA001.png").write_bytes(b"\x89PNG")
    (source / "Task1/1_brain_train.xlsx").write_bytes(b"PK")
    (source / "Task1/brain/1BA001/.ct.nii.gz").write_bytes(b"x")
    return source


def records_of(directory):
    """{patient: {slice: record}} of all splits."""
    found = {}
    for split in SPLITS:
        for record in read_split(directory, split):
            patient = found.setdefault(record["patient"], {})
            assert record["slice_index"] not in patient
            patient[record["slice_index"]] = record
    return found


def padded(plane, value):
    missing = max(plane.shape) - np.array(plane.shape)
    pads = [(count // 2, count - count // 2) for count in missing]
    return np.pad(plane, pads, constant_values=value)


def resized(plane, beyond):
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    plane = torch.from_numpy(padded(plane, beyond).astype(np.float64))[None, None]
    return torch.nn.functional.interpolate(plane, (SIZE, SIZE), **how)[0, 0].numpy()


def scaled(mr, mask, percentiles=(0.5, 99.5)):
    low, high = np.percentile(mr[mask > 0].astype(np.float64), percentiles)
    return np.clip((mr - low) / (high - low), 0, 1) * 65535


def check(records, stored_image, hu, mask, labels_apart=0):
    """Asserts that a patient's records are the slices of these volumes whose mask has a body."""
    expected_masks = {}
    for k, plane in enumerate(mask):
        # PIL's nearest for a factor of 2 takes the second of the pixels that it may choose.
        small = padded(plane, 0)[1::2, 1::2] > 0
        if small.any():
            expected_masks[k] = small
    assert sorted(records) == sorted(expected_masks)
    for k, record in records.items():
        assert record["image"].dtype == np.uint16 and record["ct"].dtype == np.int16
        assert record["mask"].dtype == np.uint8
        image, ct, inside = (record[name][..., 0] for name in ("image", "ct", "mask"))
        assert np.abs(image - resized(stored_image[k], 0)).max() <= 1.2  # rounded twice
        assert np.abs(ct - resized(hu[k], -1024)).max() <= 0.5 + 1e-3
        assert (inside != expected_masks[k]).sum() <= labels_apart
        wide, high, deep = SPACING_MM
        spacing = (deep, high * SHAPE[1] / SIZE, wide * SHAPE[1] / SIZE)
        np.testing.assert_allclose(record["spacing_mm"], spacing, rtol=1e-6)


# Records.


def test_records_hold_what_the_volumes_hold(source, tmp_path):
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    assert records.keys() == PATIENTS.keys()
    for patient, (place, ending, _, has_mask) in PATIENTS.items():
        folder = source / place / patient
        mr, hu = (pictures(folder / f"{what}{ending}") for what in ("mr", "ct"))
        mask = pictures(folder / f"mask{ending}") if has_mask else body()
        check(records[patient], scaled(mr, mask), hu, mask)
        assert sorted(records[patient]) == [k for k in WITH_BODY if k < 7 or not has_mask]
        for record in records[patient].values():
            assert record["file_name"] == f"{place}/{patient}/mr{ending}"
            assert record["class"] == place.split("/")[1]


@pytest.mark.parametrize(("plane", "axes"), [("coronal", "LIP"), ("sagittal", "PIL")])
def test_slices_of_another_plane(tmp_path, plane, axes):
    folder = write_pair(tmp_path / "source" / "brain" / "P1")
    images = {
        name: sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{name}.nii.gz")), axes)
        for name in ("mr", "ct", "mask")
    }
    mr, hu, mask = (sitk.GetArrayFromImage(image) for image in images.values())
    side = max(hu.shape[1:])  # padded, and not resized
    options = OPTIONS | {"plane": plane, "stored_size": side}
    records = records_of(prepare("mri_ct", tmp_path / "source", tmp_path / "data", **options))["P1"]
    assert sorted(records) == np.flatnonzero(mask.any((1, 2))).tolist()
    top, left = ((side - length) // 2 for length in hu.shape[1:])
    inside = slice(top, top + hu.shape[1]), slice(left, left + hu.shape[2])
    columns, rows, between = images["ct"].GetSpacing()
    for k, record in records.items():
        np.testing.assert_array_equal(record["ct"][..., 0][inside], hu[k])
        np.testing.assert_array_equal(record["mask"][..., 0][inside], mask[k])
        expected = scaled(mr, mask)[k]
        assert np.abs(record["image"][..., 0][inside] - expected.astype(float)).max() <= 1
        np.testing.assert_allclose(record["spacing_mm"], (between, rows, columns), rtol=1e-6)


def test_percentiles_are_the_options(source, tmp_path):
    options = OPTIONS | {"mr_percentiles": (10.0, 80.0)}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    folder = source / "Task1/brain/1BA001"
    mr, hu, mask = (pictures(folder / f"{what}.nii.gz") for what in ("mr", "ct", "mask"))
    check(records["1BA001"], scaled(mr, mask, (10, 80)), hu, mask)


def test_a_cone_beam_ct_is_stored_in_its_units(tmp_path):
    source = tmp_path / "source"
    for seed, patient in enumerate(("2BA001", "2BA002", "2BA003")):
        folder = write_pair(source / patient, seed, ".mha", source="cbct", mask=seed > 0)
    options = OPTIONS | {"modality": "cbct"}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    cbct, hu, mask = (pictures(folder / f"{what}.mha") for what in ("cbct", "ct", "mask"))
    check(records["2BA003"], np.clip((cbct + 1024.0) * 16, 0, 65535), hu, mask)
    assert sorted(records["2BA001"]) == list(WITH_BODY)  # the body of the cone beam CT itself
    assert records["2BA001"][1]["class"] == ""


@pytest.fixture
def table(tmp_path):
    """Volumes with any names, and a table of them that a spreadsheet wrote."""
    source = tmp_path / "source"
    rows = []
    for seed, patient in enumerate("abc"):
        folder = write_pair(source / "scans" / f"{seed}", seed, ".nii.gz", mask=seed > 0)
        (folder / "mr.nii.gz").rename(folder / "t1.nii.gz")
        (folder / "ct.nii.gz").rename(source / f"planning-{seed}.nii.gz")
        mask = f"scans/{seed}/mask.nii.gz" if seed else ""
        rows.append([patient, "2020", f"scans/{seed}/t1.nii.gz", f"planning-{seed}.nii.gz", mask])
    write_table(source, [["patient", "year", "source", "ct", "mask"], *rows])
    return source


def write_table(source, rows):
    with (source / "pairs.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)


def test_a_table_names_the_volumes(table, tmp_path):
    records = records_of(prepare("mri_ct", table, tmp_path / "data", **OPTIONS))
    assert records.keys() == set("abc")
    for seed, patient in enumerate("abc"):
        folder = table / "scans" / f"{seed}"
        mr, hu = pictures(folder / "t1.nii.gz"), pictures(table / f"planning-{seed}.nii.gz")
        mask = pictures(folder / "mask.nii.gz") if seed else body()
        check(records[patient], scaled(mr, mask), hu, mask)
        assert records[patient][2]["file_name"] == f"scans/{seed}/t1.nii.gz"


def test_a_table_says_who_is_who_whatever_the_case_of_its_name(table):
    (table / "pairs.csv").rename(table / "Pairs.CSV")
    assert mri_ct.find(table, mri_ct.Config(**OPTIONS)).names is None


def test_the_table_is_part_of_the_source(table, tmp_path):
    """Its patients decide the splits."""
    prepare("mri_ct", table, tmp_path / "data", **OPTIONS)
    text = (table / "pairs.csv").read_text(encoding="utf-8-sig")
    (table / "pairs.csv").write_text(text.replace("\nb,", "\nbb,"))
    with pytest.raises(DataError, match="changed since: delete"):
        prepare("mri_ct", table, tmp_path / "data", **OPTIONS)


def test_a_patient_is_in_one_split(source, tmp_path):
    directory = prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    found = {split: {r["patient"] for r in read_split(directory, split)} for split in SPLITS}
    order = sorted(PATIENTS, key=lambda name: hashlib.sha256(f"mri_ct{name}".encode()).hexdigest())
    # 0.3 of 4 patients, then of 3.
    assert found == {"test": {order[0]}, "validation": {order[1]}, "train": set(order[2:])}
    with (directory / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["split"], row["patient"]) for row in rows} == {
        (split, patient) for split in SPLITS for patient in found[split]
    }
    summary = json.loads((directory / "preparation.json").read_text())
    assert summary["splits"]["test"]["patients"] == 1


def test_one_patient_is_in_all_splits_and_it_says_so(tmp_path, capsys):
    source = write_pair(tmp_path / "template")
    directory = prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    assert "one patient in all, who is in every split" in capsys.readouterr().out
    records = records_of(directory)["template"]
    assert sorted(records) == [1, 2, 3, 4, 5, 6] and records[1]["class"] == ""


def test_evaluation_gives_any_two_of_the_arrays(source, tmp_path):
    data = data_config(tmp_path / "data", dataset="mri_ct", **options_of(mri2ct.get_config().data))
    data.update(OPTIONS)
    data.update(image_size=SIZE, source="image", source_type="uint16", batch_size=3, context=0)
    directory = prepare("mri_ct", source, tmp_path / "data", **options_of(data))
    records = read_split(directory, "train")
    for target, kind in (("ct", "int16"), ("mask", "uint8")):
        data.update(target=target, target_type=kind)
        seen = 0
        for batch in eval_batches(data, "train"):
            for place in np.flatnonzero(batch["index"] >= 0):
                record = records[batch["index"][place]]
                np.testing.assert_array_equal(batch["source"][place], record["image"], strict=True)
                np.testing.assert_array_equal(batch["target"][place], record[target], strict=True)
                seen += 1
        assert seen == len(records)


def test_oblique_volumes_are_told(source, tmp_path, capsys):
    for path in (source / "Task1/brain/1BA002").iterdir():
        picture = sitk.ReadImage(str(path))
        turn = sitk.VersorTransform((1.0, 0.0, 0.0), np.radians(12))
        turned = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(picture.GetDirection(), (3, 3))
        picture.SetDirection(turned.ravel())
        sitk.WriteImage(picture, str(path))
    prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    assert "oblique, stored on the nearest axes: 1BA002 (12 degrees)" in capsys.readouterr().out


# Grids.


def regrid(folder, ending=".nii.gz"):
    """Brings a patient's MR and mask to other voxels, of other spacing, turned and shifted."""
    turn = sitk.VersorTransform((0.0, 0.0, 1.0), np.radians(7))
    for what in ("mr", "mask"):
        path = str(folder / f"{what}{ending}")
        picture = sitk.ReadImage(path)
        how = sitk.sitkLinear if what == "mr" else sitk.sitkNearestNeighbor
        origin, spacing = (-22.0, 8.0, 697.0), (1.3, 1.2, 2.2)
        other = sitk.Resample(
            picture, (34, 46, 12), sitk.Transform(), how, origin, spacing, turn.GetMatrix(), 0.0
        )
        sitk.WriteImage(other, path)
    return folder


def test_resampling_is_simpleitk_in_the_patients_space(source, tmp_path):
    folder = regrid(source / "Task1/brain/1BA001")
    options = OPTIONS | {"resample": True}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    mr, ct, mask = (sitk.ReadImage(str(folder / f"{what}.nii.gz")) for what in ("mr", "ct", "mask"))
    identity = sitk.Transform()
    mr = sitk.Resample(mr, ct, identity, sitk.sitkLinear, float(pictures_of(mr).min()))
    mask = sitk.Resample(mask, ct, identity, sitk.sitkNearestNeighbor, 0)
    mr, ct, mask = (pictures_of(picture) for picture in (mr, ct, mask))
    check(records["1BA001"], scaled(mr, mask), ct, mask, labels_apart=1)
    # Volumes on one grid come out as without resampling. The two data sets have different names.
    plain = source / "Task1/pelvis/1PA001"
    mr, hu, mask = (pictures(plain / f"{what}.nrrd") for what in ("mr", "ct", "mask"))
    check(records["1PA001"], scaled(mr, mask), hu, mask)
    assert mri_ct.Config(**options).name != mri_ct.Config(**OPTIONS).name


def pictures_of(picture):
    return sitk.GetArrayFromImage(sitk.DICOMOrient(picture, "LPS"))


def test_where_a_cone_beam_ct_does_not_reach_is_air(tmp_path):
    source = tmp_path / "source"
    for seed, patient in enumerate("abc"):
        folder = write_pair(source / patient, seed, ".mha", source="cbct")
        picture = sitk.ReadImage(str(folder / "cbct.mha"))
        sitk.WriteImage(picture[8:24, 10:30, :], str(folder / "cbct.mha"))
    options = OPTIONS | {"modality": "cbct", "resample": True}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    for record in records["b"].values():
        assert (record["image"][:4] == 0).all() and record["image"][10, 10] > 0


CONFIG = """
from configs import {system}
def get_config():
    config = {system}.get_config()
    config.data.data_dir = {data_dir!r}
    config.data.stored_size = {size}
    return config
"""


def command(tmp_path, source, *arguments, system="mri2ct", **options):
    config = tmp_path / "config.py"
    data_dir = str(tmp_path / "data")
    config.write_text(CONFIG.format(system=system, data_dir=data_dir, size=SIZE))
    flags = f"--config={config}", f"--source={source}"
    return commands.run("launch.prepare", *flags, *arguments, **options)


def test_the_flag_resamples(source, tmp_path):
    regrid(source / "Task1/brain/1BA001")
    out, _ = command(tmp_path, source, "--resample")
    options = options_of(mri2ct.get_config().data) | {"stored_size": SIZE, "resample": True}
    directory = prepared_directory("mri_ct", tmp_path / "data", **options)
    assert str(directory) in out and (directory / "dataset_info.json").exists()


def test_the_command_takes_patients_by_name(source, tmp_path):
    _, err = command(tmp_path, source, "--config.data.test_patients=1BA01", code=1)
    assert "test_patients: there is no patient 1BA01, but 1BA001" in commands.error_line(err)
    chosen = (
        "--config.data.test_patients=1PA001, 1BA001",
        "--config.data.validation_patients=1PA002",
    )
    command(tmp_path, source, *chosen)
    (directory,) = (tmp_path / "data" / "mri_ct").glob("*_held*/2.0.0")
    found = {split: {r["patient"] for r in read_split(directory, split)} for split in SPLITS}
    assert found["test"] == {"1PA001", "1BA001"} and found["validation"] == {"1PA002"}
    assert (directory / "pairs.html").stat().st_mode & 0o777 == 0o600


def test_the_flag_is_refused_where_nothing_is_resampled(source, tmp_path):
    _, err = command(tmp_path, source, "--resample", system="liver", code=1)
    assert "the data set liver_ct knows no resampling" in commands.error_line(err)


def test_a_pattern_finds_the_patient_of_volumes(source, tmp_path):
    """In the path, where each study has a folder within the patient's."""
    studies_of_patients(source)
    for pattern, patients in ((layouts.INNER, set(PATIENTS)), (layouts.OUTER, {"Doe", "Roe"})):
        for place in ("Doe/1BA002", "Roe/1PA002") if pattern == layouts.OUTER else ():
            shutil.rmtree(source / "Task1" / place)
        found = layouts.find_pairs(SourceFolder(source), "mr", pattern)["train"]
        assert {pair.patient for pair in found} == patients
        assert {pair.region for pair in found} == ({""} if "Doe" in patients else {"Doe", "Roe"})
    write_pair(source / "Task1/Doe/later")
    refusal = "both of patient Doe: keep one"
    refused(source, tmp_path, source / "Task1/Doe/later", refusal, patient_pattern=layouts.OUTER)
    refusal = "names no patient by patient_pattern x/(y)"
    refused(source, tmp_path, source / "Task1/Doe/1BA001", refusal, patient_pattern="x/(y)")


# Refusals. Each function spoils a good source and returns what the message must name.


def first(source, name="mr.nii.gz"):
    return source / "Task1/brain/1BA001" / name


def other_grid(source):
    regrid(source / "Task1/brain/1BA001")
    return first(source), "or prepare with --resample"


def mask_on_another_grid(source):
    values = np.ones((9, 40, 31), np.uint8)
    sitk.WriteImage(image(values), str(first(source, "mask.nii.gz")))
    return first(source, "mask.nii.gz"), "its shape is (31, 40, 9), not (32, 40, 9)"


def ct_beside_itself(source):
    """Moves the CT by 5 mm in its header."""
    picture = sitk.ReadImage(str(first(source, "ct.nii.gz")))
    picture.SetOrigin([x + 5 for x in picture.GetOrigin()])
    sitk.WriteImage(picture, str(first(source, "ct.nii.gz")))
    return first(source), "its origin is"


def no_ct(source):
    first(source, "ct.nii.gz").unlink()
    return first(source).parent, "no ct.nii.gz"


def no_mr(source):
    first(source).rename(first(source, "cbct.nii.gz"))
    return first(source).parent, "or set config.data.modality"


def mr_twice(source):
    shutil.copy(first(source), first(source, "mr.nii"))
    return first(source), "are the same"


def patient_twice(source):
    write_pair(source / "Task1/pelvis/1BA001")
    return source / "Task1/pelvis/1BA001/mr.nii.gz", "both of patient 1BA001: keep one"


def studies_of_patients(source):
    """Several folders around them, which are no regions of the body."""
    (source / "Task1/brain").rename(source / "Task1/Doe")
    (source / "Task1/pelvis").rename(source / "Task1/Roe")
    return source / "Task1/Doe/1BA001/ct.nii.gz", "Set config.data.patient_pattern='"


def a_date(source):
    (source / "Task1/brain").rename(source / "Task1/Doe")
    (source / "Task1/Doe/1BA001").rename(source / "Task1/Doe/2024-03-01")
    return source / "Task1/Doe/2024-03-01/ct.nii.gz", "is Doe a patient, whose study is 2024-03-01"


def patient_in_other_case(source):
    write_pair(source / "Task1/pelvis/1ba001")
    return "1ba001", "differ in case only"


def no_volumes(source):
    shutil.rmtree(source / "Task1/brain")
    shutil.rmtree(source / "Task1/pelvis")
    return source, "none of the known layouts"


def pictures_too(source):
    (source / "trainA").mkdir()
    (source / "trainB").mkdir()
    return source, "laid out as trainA and trainB and as folders of patients"


def empty_file(source):
    first(source).write_bytes(b"")
    return first(source), "is empty"


def link_outside(source):
    first(source).rename(source.parent / "mr.nii.gz")
    first(source).symlink_to(source.parent / "mr.nii.gz")
    return first(source), "outside"


def text_as_volume(source):
    first(source).write_text("volume" * 100)
    return first(source), "cannot be read"


def no_body_in_the_mask(source):
    sitk.WriteImage(image(np.zeros(SHAPE, np.uint8)), str(first(source, "mask.nii.gz")))
    return first(source, "mask.nii.gz"), "shows no body"


def nothing_in_the_mr(source):
    sitk.WriteImage(image(np.full(SHAPE, 7, np.float32)), str(first(source)))
    return first(source), "percentiles 0.5 and 99.5 of the values in the body mask are both 7"


def nothing_in_an_mr_without_mask(source):
    path = source / "Task1/pelvis/1PA002/mr.nii"
    sitk.WriteImage(image(np.full(SHAPE, 7, np.float32), "LPI"), str(path))
    return path, "shows no body"


def not_a_number(source):
    sitk.WriteImage(image(np.full(SHAPE, np.nan, np.float32)), str(first(source)))
    return first(source), "holds no numbers"


def floats_as_mask(source):
    sitk.WriteImage(image(np.full(SHAPE, 0.5, np.float32)), str(first(source, "mask.nii.gz")))
    return first(source, "mask.nii.gz"), "integers"


def not_hu(source):
    sitk.WriteImage(image(np.full(SHAPE, 1e6, np.float32)), str(first(source, "ct.nii.gz")))
    return first(source, "ct.nii.gz"), "not a CT's"


def ct_scaled_to_1(source):
    values = (pictures(first(source, "ct.nii.gz")) + 1000) / 2500 * 2 - 1
    sitk.WriteImage(image(values.astype(np.float32)), str(first(source, "ct.nii.gz")))
    return first(source, "ct.nii.gz"), "they look like values scaled to [-1, 1]"


def ct_with_an_offset(source):
    values = pictures(first(source, "ct.nii.gz")) + 1024
    sitk.WriteImage(image(values), str(first(source, "ct.nii.gz")))
    return first(source, "ct.nii.gz"), "which are no HU"


def truncated(source):
    path = source / "Task1/brain/1BA002/ct.mha"
    os.truncate(path, path.stat().st_size - 100)
    return path, "cannot be read"


BY_HEADER = [
    other_grid,
    mask_on_another_grid,
    ct_beside_itself,
    no_ct,
    no_mr,
    mr_twice,
    patient_twice,
    studies_of_patients,
    a_date,
    no_volumes,
    pictures_too,
    empty_file,
    link_outside,
    text_as_volume,
]
BY_CONTENT = [
    patient_in_other_case,
    no_body_in_the_mask,
    nothing_in_the_mr,
    nothing_in_an_mr_without_mask,
    not_a_number,
    floats_as_mask,
    not_hu,
    ct_scaled_to_1,
    ct_with_an_offset,
    truncated,
]


@pytest.mark.parametrize("spoil", [*BY_HEADER, *BY_CONTENT], ids=lambda spoil: spoil.__name__)
def test_refuses(source, tmp_path, spoil, monkeypatch):
    path, word = spoil(source)
    if spoil in BY_HEADER:  # nothing is decoded
        for reader in ("read_ct", "read_labels", "read_mr"):
            monkeypatch.setattr(mr_volumes, reader, None)
    refused(source, tmp_path, path, word)


def refused(source, tmp_path, path, word, **options):
    with pytest.raises(DataError) as caught:
        prepare("mri_ct", source, tmp_path / "data", **OPTIONS | options)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")  # the path holds the case's name
    assert word in text and "\n" not in text
    assert not list((tmp_path / "data").rglob("*/dataset_info.json"))


HEADER = ["patient", "source", "ct"]
ROW = ["a", "scans/0/t1.nii.gz", "planning-0.nii.gz"]


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([["patient", "mr", "ct"], ROW], "has no column source"),
        ([], "is empty"),
        ([HEADER], "lists no pairs"),
        ([HEADER, ["", *ROW[1:]]], "has no patient in line 2"),
        ([HEADER, ROW[:2]], "has no ct in line 2"),
        ([HEADER, ROW, ["b", "scans/9/t1.nii.gz", ROW[2]]], "scans/9/t1.nii.gz in line 3"),
        ([HEADER, ["a", "../other/t1.nii.gz", ROW[2]]], "../other/t1.nii.gz in line 2"),
        ([HEADER, ROW, ROW], "both of patient a"),
        ([HEADER, ["a", "notes.txt", ROW[2]]], "notes.txt must end in"),
    ],
)
def test_refuses_tables(table, tmp_path, rows, word):
    write_table(table, rows)
    (table / "notes.txt").write_text("x")
    (table.parent / "other").mkdir()
    shutil.copy(table / ROW[1], table.parent / "other")
    refused(table, tmp_path, table, word)


def test_refuses_a_table_that_is_no_text(table, tmp_path):
    (table / "pairs.csv").write_bytes(b"\xff\xfe\x00\x81patient")
    refused(table, tmp_path, table / "pairs.csv", "save it as CSV")


@pytest.mark.parametrize(
    "option",
    [
        {"modality": "pet"},
        {"source_side": "top"},
        {"mr_percentiles": (99.5, 0.5)},
        {"mr_percentiles": (0.5, 101)},
        {"mr_percentiles": (0.5,)},
        {"image_window_hu": (0, 40000)},
        {"patient_pattern": "no group"},
        {"patient_pattern": "("},
        {"patient_pattern": "(" * 9000 + ")" * 9000},
        {"patient_pattern": "(a{99999999999})"},
        {"test_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"stored_size": 0},
    ],
    ids=lambda option: str(option)[:50],
)
def test_refuses_options(option):
    with pytest.raises(DataError, match=next(iter(option))):
        mri_ct.Config(**OPTIONS | option)
