"""Preparation of liver_ct, against SimpleITK's reading and PyTorch's and SciPy's resizing."""

import collections
import csv
import hashlib
import itertools
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from input_pipeline.datasets.liver_ct import liver_ct_dataset_builder as liver_ct
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import read_split
from tests.input_pipeline.volumes import axes_affine, save

SIZE = 16
OPTIONS = {"stored_size": SIZE, "test_fraction": 0.3, "validation_fraction": 0.3}
SPLITS = ("train", "validation", "test")
SLICES = 5
AXES = [  # orders and directions of a file's axes
    ((0, 1, 2), (-1, -1, 1)),
    ((0, 1, 2), (1, 1, 1)),
    ((2, 0, 1), (1, 1, -1)),
    ((0, 2, 1), (-1, 1, -1)),
    ((1, 0, 2), (-1, 1, -1)),
]


def write_pair(image, labels, number):
    """Writes a CT and its labels: no liver in two slices, liver in two, with tumour in one."""
    rng = np.random.default_rng(number)
    order, signs = AXES[number % len(AXES)]
    anatomical = (50, 38, SLICES)  # voxels from right to left, front to back and feet to head
    shape = [anatomical[axis] for axis in order]
    ct = rng.integers(-1024, 2000, shape, np.int16)
    inside = np.zeros(anatomical, np.uint8)
    inside[10:40, 5:30, 1:4] = 1
    inside[15:25, 10:20, 2] = 2
    inside = np.flip(inside, axis=2) if signs[order.index(2)] < 0 else inside
    affine = axes_affine(order, signs)
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    save(image, ct, affine, scl_slope=1, scl_inter=-3)
    save(labels, inside.transpose(order), affine)


def lits(folder, numbers=range(5)):
    for number in numbers:
        batch = folder / ("Training Batch 1" if number < 2 else "media/nas/Training Batch 2")
        suffix = ".nii.gz" if number == 3 else ".nii"
        write_pair(
            batch / f"volume-{number}{suffix}", batch / f"segmentation-{number}{suffix}", number
        )
    return folder


def msd(folder, numbers=range(5)):
    task = folder / "Task03_Liver"
    for number in numbers:
        name = f"liver_{number}.nii.gz"
        write_pair(task / "imagesTr" / name, task / "labelsTr" / name, number)
        (task / "imagesTr" / f"._{name}").write_bytes(b"x")
    (task / "imagesTs").mkdir()
    shutil.copy(task / "imagesTr" / "liver_0.nii.gz", task / "imagesTs" / "liver_9.nii.gz")
    (task / "dataset.json").write_text("{}")
    return folder


LAYOUTS = {"lits": lits, "msd": msd}


@pytest.fixture
def source(tmp_path):
    return lits(tmp_path / "source")


def pictures(path):
    """SimpleITK's array [slices, rows, columns], and their spacing in mm."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]


def padded(plane, value):
    missing = max(plane.shape) - np.array(plane.shape)
    pads = [(count // 2, count - count // 2) for count in missing]
    return np.pad(plane, pads, constant_values=value)


def resized(plane):
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    plane = torch.from_numpy(padded(plane, -1024).astype(np.float64))[None, None]
    return torch.nn.functional.interpolate(plane, (SIZE, SIZE), **how)[0, 0].numpy()


def nearest(plane):
    plane = padded(plane, 0)
    centres = (np.arange(SIZE) + 0.5) * len(plane) / SIZE - 0.5
    grid = np.meshgrid(centres, centres, indexing="ij")
    return ndimage.map_coordinates(plane, grid, order=0, mode="nearest")


def check(record, source):
    """Asserts that a record holds its slice of the volumes."""
    path, index = source / record["file_name"], record["slice_index"]
    if path.parent.name == "imagesTr":
        labels = path.parent.with_name("labelsTr") / path.name
    else:
        labels = path.with_name(path.name.replace("volume", "segmentation"))
    hu, spacing_mm = pictures(path)
    inside, _ = pictures(labels)
    assert record["patient"] == path.name.split(".")[0]
    assert record["image"].dtype == np.int16 and record["mask"].dtype == np.uint8
    assert np.abs(record["image"][..., 0] - resized(hu[index].clip(-1024))).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(record["mask"][..., 0], nearest(inside[index]))
    grown = np.array([1, 50 / SIZE, 50 / SIZE])
    np.testing.assert_allclose(record["spacing_mm"], spacing_mm * grown, rtol=1e-6)
    assert record["class"] == ["empty", "liver", "tumour"][inside[index].max()]


# Records.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_hold_what_the_volumes_hold(tmp_path, layout):
    source = LAYOUTS[layout](tmp_path / "source")
    directory = prepare("liver_ct", source, tmp_path, **OPTIONS)
    seen = []
    for split in SPLITS:
        records = read_split(directory, split)
        for record in records:
            check(record, source)
            seen.append((record["patient"], record["slice_index"]))
        assert [r["slice_index"] for r in records] == list(range(SLICES)) * (len(records) // SLICES)
    name = {"lits": "volume-{}", "msd": "liver_{}"}[layout]
    assert sorted(seen) == [(name.format(n), k) for n in range(5) for k in range(SLICES)]


def test_the_class_is_that_of_the_stored_labels(source, tmp_path):
    labels = np.zeros((50, 38, SLICES), np.uint8)
    labels[21, 20, 1] = 2  # too small to show in 16 pixels of 3 voxels
    labels[20:24, 20:24, 2] = 2
    save(source / "Training Batch 1/segmentation-0.nii", labels, axes_affine(*AXES[0]))
    directory = prepare("liver_ct", source, tmp_path, **OPTIONS)
    records = [r for s in SPLITS for r in read_split(directory, s) if r["patient"] == "volume-0"]
    assert [record["class"] for record in records] == ["empty", "empty", "tumour"] + 2 * ["empty"]
    assert [record["mask"].max() for record in records] == [0, 0, 2, 0, 0]


def patients(directory):
    return {split: {r["patient"] for r in read_split(directory, split)} for split in SPLITS}


def test_a_volume_is_in_one_split(source, tmp_path):
    directory = prepare("liver_ct", source, tmp_path, **OPTIONS)
    found = patients(directory)
    order = sorted(
        (f"volume-{number}" for number in range(5)),
        key=lambda name: hashlib.sha256(f"liver_ct{name}".encode()).hexdigest(),
    )
    # 0.3 of 5 volumes, then 0.3 of 3.
    assert found == {
        "test": set(order[:2]),
        "validation": {order[2]},
        "train": set(order[3:]),
    }
    with (directory / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["split"], row["patient"]) for row in rows} == {
        (split, patient) for split in SPLITS for patient in found[split]
    }


def test_volumes_are_in_the_order_of_their_numbers(tmp_path):
    source = lits(tmp_path / "source", numbers=(1, 2, 10, 20, 100))
    splits = liver_ct.find(source, liver_ct.Config(**OPTIONS)).splits
    for planes in splits.values():
        numbers = [int(plane.patient.removeprefix("volume-")) for plane in planes]
        assert numbers == sorted(numbers)


def test_splits_by_slice_leak_and_say_so(source, tmp_path, capsys):
    directory = prepare("liver_ct", source, tmp_path, **OPTIONS, split_by="slice")
    assert "splits by slice" in capsys.readouterr().out
    found = patients(directory)
    assert found["train"] & found["test"] and found["train"] & found["validation"]
    records = {split: read_split(directory, split) for split in SPLITS}
    counts = {split: len(found) for split, found in records.items()}
    assert counts == {"test": 8, "validation": 5, "train": 12}  # 0.3 of 25, then of 17
    seen = set()
    for record in itertools.chain(*records.values()):
        check(record, source)
        seen.add((record["patient"], record["slice_index"]))
    assert len(seen) == 5 * SLICES


@pytest.mark.parametrize("option", [{"folds": 5}, {"test_patients": "volume-1"}], ids=str)
def test_slices_that_are_split_apart_have_no_patients_to_name(option):
    with pytest.raises(DataError, match="use split_by=volume with test_patients"):
        liver_ct.Config(split_by="slice", **option)


def test_one_volume_is_split_by_slices(tmp_path, capsys):
    source = lits(tmp_path / "source", numbers=[2])
    options = OPTIONS | {"test_fraction": 0.2, "validation_fraction": 0.25}
    directory = prepare("liver_ct", source, tmp_path, **options)
    said = capsys.readouterr().out
    assert "no evidence of generalisation" in said and "every split" in said
    indices = {s: [r["slice_index"] for r in read_split(directory, s)] for s in SPLITS}
    assert indices == {"train": [0, 3, 4], "validation": [1], "test": [2]}


@pytest.mark.parametrize("split_by", ["volume", "slice"])
def test_a_volume_is_decoded_once_a_split(source, tmp_path, monkeypatch, split_by):
    decoded = collections.Counter()

    def count(read):
        def counting(path, user):
            decoded[path.name] += 1
            return read(path, user)

        return counting

    monkeypatch.setattr(liver_ct, "read_ct", count(liver_ct.read_ct))
    monkeypatch.setattr(liver_ct, "read_labels", count(liver_ct.read_labels))
    directory = prepare("liver_ct", source, tmp_path, **OPTIONS, split_by=split_by)
    splits = collections.Counter()
    for split in SPLITS:
        splits.update({record["file_name"] for record in read_split(directory, split)})
    assert len(decoded) == 10
    for name, times in splits.items():
        assert decoded[os.path.basename(name)] == times


def test_an_oblique_volume_is_told(source, tmp_path, capsys):
    image = source / "Training Batch 1/volume-0.nii"
    affine = axes_affine(*AXES[0])
    turn = np.radians(12)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]] @ affine[:2, :2]
    values = np.resize(np.arange(-1000, 1000, dtype=np.int16), (50, 38, SLICES))
    for path, part in ((image, 1), (image.with_name("segmentation-0.nii"), 0)):
        save(path, values * np.int16(part), affine)
    prepare("liver_ct", source, tmp_path, **OPTIONS)
    assert "oblique, stored on the nearest axes: volume-0 (12 degrees)" in capsys.readouterr().out


def test_links_within_the_source_are_fine(source, tmp_path):
    path = source / "Training Batch 1" / "volume-0.nii"
    (source / "originals").mkdir()
    path.rename(source / "originals" / "ct.nii")
    path.symlink_to(source / "originals" / "ct.nii")
    (source / "all").symlink_to(source)  # not followed, as it would have no end
    found = liver_ct.find(source, liver_ct.Config(**OPTIONS))
    assert sum(map(len, found.splits.values())) == 5 * SLICES


def test_a_changed_source_is_refused(source, tmp_path):
    prepare("liver_ct", source, tmp_path, **OPTIONS)
    path = source / "Training Batch 1" / "segmentation-0.nii"
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="changed since: delete"):
        prepare("liver_ct", source, tmp_path, **OPTIONS)


# Refusals. Each function spoils a good source and returns what the message must name.


def first(source, name="volume-0.nii"):
    return source / "Training Batch 1" / name


def no_labels(source):
    first(source, "segmentation-0.nii").unlink()
    return first(source), "has no labels"


def no_image(source):
    first(source).unlink()
    return first(source, "segmentation-0.nii"), "has no image"


def volume_twice(source):
    shutil.copy(first(source), source / "volume-0.nii")
    return source / "volume-0.nii", "are the same volume"


def volume_twice_compressed(source):
    write_pair(first(source, "volume-00.nii.gz"), first(source, "segmentation-00.nii.gz"), 0)
    return first(source, "segmentation-00.nii.gz"), "are the same volume"


def both_layouts(source):
    msd(source)
    return source, "the same patients"


def no_volumes(source):
    for path in source.rglob("*.nii*"):
        path.unlink()
    return source, "holds neither"


def empty_file(source):
    first(source).write_bytes(b"")
    return first(source), "is empty"


def link_outside(source):
    first(source).rename(source.parent / "ct.nii")
    first(source).symlink_to(source.parent / "ct.nii")
    return first(source), "outside"


def other_shape(source):
    save(first(source, "segmentation-0.nii"), np.zeros((50, 38, SLICES + 1), np.uint8))
    return first(source, "segmentation-0.nii"), "its shape is (50, 38, 6), not (50, 38, 5)"


def other_orientation(source):
    affine = axes_affine(AXES[0][0], (-1, -1, -1))
    save(first(source, "segmentation-0.nii"), np.zeros((50, 38, SLICES), np.uint8), affine)
    return first(source), "(in the order LPS of its axes, which are stored as LPI)"


def bad_header(source):
    save(first(source), np.zeros((50, 38, SLICES), np.int16), dim=[3, 9999, 9999, 9999, 1, 1, 1, 1])
    return first(source), "above the limit"


def text_as_volume(source):
    first(source).write_text("volume" * 100)
    return first(source), "cannot be read"


def other_label(source):
    labels = np.zeros((50, 38, SLICES), np.uint8)
    labels[0, 0, 0] = 3
    save(first(source, "segmentation-0.nii"), labels, axes_affine(*AXES[0]))
    return first(
        source, "segmentation-0.nii"
    ), "holds the values 0, 3, and the regions are liver, with its tumours [1, 2]"


def label_between(source):
    labels = np.full((50, 38, SLICES), 0.5, np.float32)
    save(first(source, "segmentation-0.nii"), labels, axes_affine(*AXES[0]))
    return first(source, "segmentation-0.nii"), "integers"


def not_a_number(source):
    ct = np.full((50, 38, SLICES), np.nan, np.float32)
    save(first(source), ct, axes_affine(*AXES[0]))
    return first(source), "not numbers"


def truncated(source):
    path = source / "media/nas/Training Batch 2/volume-3.nii.gz"
    os.truncate(path, path.stat().st_size - 100)
    return path, "cannot be read"


BY_HEADER = [
    no_labels,
    no_image,
    volume_twice,
    volume_twice_compressed,
    both_layouts,
    no_volumes,
    empty_file,
    link_outside,
    other_shape,
    other_orientation,
    bad_header,
    text_as_volume,
]
BY_CONTENT = [other_label, label_between, not_a_number, truncated]


@pytest.mark.parametrize("spoil", [*BY_HEADER, *BY_CONTENT], ids=lambda spoil: spoil.__name__)
def test_refuses(source, tmp_path, spoil, monkeypatch):
    path, word = spoil(source)
    if spoil in BY_HEADER:  # nothing is decoded
        monkeypatch.setattr(liver_ct, "read_ct", None)
        monkeypatch.setattr(liver_ct, "read_labels", None)
    with pytest.raises(DataError) as caught:
        prepare("liver_ct", source, tmp_path / "data", **OPTIONS)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")  # the path holds the case's name
    assert word in text and "\n" not in text
    assert not list((tmp_path / "data").rglob("preparation.json")) or spoil in BY_CONTENT
    assert not list((tmp_path / "data").rglob("*/dataset_info.json"))


@pytest.mark.parametrize(
    "option",
    [
        {"stored_size": 0},
        {"test_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"split_by": "patient"},
    ],
)
def test_refuses_options(source, tmp_path, option):
    with pytest.raises(DataError, match=next(iter(option))):
        prepare("liver_ct", source, tmp_path / "data", **OPTIONS | option)
