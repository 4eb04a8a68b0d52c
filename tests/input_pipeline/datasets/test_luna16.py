"""Preparation of luna16, against SimpleITK's reading and PyTorch's and SciPy's resizing."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from input_pipeline import pipeline
from input_pipeline.datasets.luna16 import layouts, volumes
from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.example_slices import training_slices
from input_pipeline.prepare import prepare
from input_pipeline.prepared import examples
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import data_config, read_split

SPLITS = ("train", "validation", "test")
SHAPE = (8, 10, 12)  # slices, rows, columns
SPACING_MM = (2.0, 1.0, 0.75)
OPTIONS = {"stored_size": 16, "depth": 9}  # more than a volume has: nothing is antialiased
MASKS = "seg-lungs-LUNA16"
FILES = {  # {series: (folder, ending, compressed)}, in different formats
    "1.3.6.1": ("subset0", ".mhd", False),
    "1.3.6.2": ("subset0", ".mhd", True),
    "1.3.6.3": ("subset8", ".mha", True),
    "1.3.6.4": ("subset9/part", ".nii.gz", True),
}


def write(path, values, turned=False, compress=False):
    """Writes a volume whose slices run from the feet up or, if turned, from the head down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values[::-1] if turned else values)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection(np.diag([1.0, 1.0, -1.0 if turned else 1.0]).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def ct(seed, shape=SHAPE):
    hu = np.random.default_rng(seed).integers(-1100, 1500, shape).astype(np.int16)
    hu[:, 0] = -3024  # beyond the field of view
    return hu


def labels(seed, shape=SHAPE):
    return np.random.default_rng(seed).choice([0, 3, 4, 5], shape).astype(np.uint8)


def luna(folder, files=None, masks=True):
    for seed, (name, (place, ending, compress)) in enumerate((files or FILES).items()):
        turned = seed % 2 == 1
        write(folder / place / f"{name}{ending}", ct(seed), turned, compress)
        if masks:
            write(folder / MASKS / f"{name}.mhd", labels(seed), turned, compress=True)
    return folder


@pytest.fixture
def source(tmp_path):
    return luna(tmp_path / "source")


def prepared(source, tmp_path, **options):
    directory = prepare("luna16", source, tmp_path / "data", **OPTIONS | options)
    return {split: read_split(directory, split) for split in SPLITS}


def found(source, **options):
    return luna16.find(source, luna16.Config(**OPTIONS | options))


def patients(source, **options):
    splits = found(source, **options).splits
    return {split: sorted({plane.patient for plane in planes}) for split, planes in splits.items()}


def resized(values, shape):
    values = torch.from_numpy(values.astype(np.float64))[None, None]
    how = {"mode": "trilinear", "align_corners": True}
    return torch.nn.functional.interpolate(values, shape, **how)[0, 0].numpy()


# Records.


def test_whole_volumes_are_clipped_and_resized(source, tmp_path):
    seen = []
    for split, records in prepared(source, tmp_path, lung_masks=True).items():
        for start in range(0, len(records), 9):
            run = records[start : start + 9]
            assert len({record["file_name"] for record in run}) == 1
            assert [record["slice_index"] for record in run] == list(range(9))
            seed = list(FILES).index(run[0]["patient"])
            hu = np.stack([record["image"][..., 0] for record in run])
            assert hu.dtype == np.int16 and (hu.min(), hu.max()) == (-1000, 1000)
            expected = resized(np.clip(ct(seed), -1000, 1000), (9, 16, 16))
            assert np.abs(hu - expected).max() <= 0.5 + 1e-3
            lungs = np.isin(labels(seed), (3, 4)).astype(np.uint8)
            at = [np.linspace(0, old - 1, new) for old, new in zip(SHAPE, (9, 16, 16), strict=True)]
            grid = np.meshgrid(*(np.floor(p + 0.5) for p in at), indexing="ij")
            mask = np.stack([record["mask"][..., 0] for record in run])
            np.testing.assert_array_equal(
                mask, ndimage.map_coordinates(lungs, grid, order=0), strict=True
            )
            spacing = np.array(SPACING_MM) * np.array([7 / 8, 9 / 15, 11 / 15])
            for record in run:
                np.testing.assert_allclose(record["spacing_mm"], spacing, rtol=1e-6)
            seen.append((split, run[0]["patient"]))
    assert seen == [
        ("train", "1.3.6.1"),
        ("train", "1.3.6.2"),
        ("validation", "1.3.6.3"),
        ("test", "1.3.6.4"),
    ]


def test_crops_are_pieces_of_the_volume_at_drawn_places(source, tmp_path):
    options = {"depth": 3, "stored_size": 8, "crops": 20, "lung_masks": True}
    records = prepared(source, tmp_path, **options)["train"]
    assert len(records) == 2 * 20 * 3
    config = luna16.Config(**OPTIONS | options)
    places = set()
    for number in range(40):
        run = records[3 * number : 3 * number + 3]
        seed, crop = divmod(number, 20)
        digest = hashlib.sha256(f"1.3.6.{seed + 1}\0{crop}".encode()).digest()
        at = [
            int.from_bytes(digest[8 * axis : 8 * axis + 8], "big") % room
            for axis, room in enumerate((6, 3, 5))
        ]
        box = tuple(slice(a, a + n) for a, n in zip(at, (3, 8, 8), strict=True))
        hu = np.stack([record["image"][..., 0] for record in run])
        np.testing.assert_array_equal(hu, np.clip(ct(seed), -1000, 1000)[box])
        mask = np.stack([record["mask"][..., 0] for record in run])
        np.testing.assert_array_equal(mask, np.isin(labels(seed), (3, 4))[box])
        np.testing.assert_allclose(run[0]["spacing_mm"], SPACING_MM)
        assert at == volumes.corner(
            found(source).splits["train"][9 * seed].series, crop, SHAPE, config
        )
        places.add((seed, *at))
    assert len(places) > 30 and all(len({p[k] for p in places}) > 2 for k in (1, 2, 3))
    # Each crop is an example: no run goes on into the next.
    data = data_config(tmp_path / "data", dataset="luna16", **config.options)
    slices = training_slices(examples(data, "train"), 3, 1.0)
    np.testing.assert_array_equal(slices, np.arange(120).reshape(40, 3))


def test_series_of_one_patient_are_numbered_one_after_the_other(source, tmp_path):
    table = "".join(f"{name},P1\n" for name in ("1.3.6.1", "1.3.6.2"))
    (source / "patients.csv").write_text(
        f"seriesuid,patient\n{table}1.3.6.3,P2\n1.3.6.4,P3\n1.3.6.99,not here\n"
    )
    records = prepared(source, tmp_path, crops=2, depth=3, stored_size=8)["train"]
    assert {record["patient"] for record in records} == {"P1"}
    starts = (0, 4, 8, 12)
    assert [r["slice_index"] for r in records] == [s + k for s in starts for k in range(3)]


def test_isotropic_voxels(source, tmp_path):
    options = {"isotropic_mm": 0.5, "crops": 1, "depth": 32, "stored_size": 18}
    records = prepared(source, tmp_path, **options)["train"][:32]
    hu = np.stack([record["image"][..., 0] for record in records])
    np.testing.assert_allclose(records[0]["spacing_mm"], (0.5, 0.5, 0.5))
    # 16 x 10 x 9 mm: 32 x 20 x 18 voxels about the same middle; the crop leaves two rows.
    grid = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * 0.5 / mm + (old - 1) / 2
          for n, mm, old in zip((32, 20, 18), SPACING_MM, SHAPE, strict=True)),
        indexing="ij",
    )  # fmt: skip
    values = np.clip(ct(0), -1000, 1000).astype(np.float64)
    expected = ndimage.map_coordinates(values, grid, order=1, mode="nearest")
    near = [np.abs(hu - expected[:, row : row + 18]).max() <= 0.5 + 1e-3 for row in range(3)]
    assert sum(near) == 1


def test_a_run_reads_examples_as_volumes(source, tmp_path):
    directory = prepare("luna16", source, tmp_path / "data", **OPTIONS)
    options = luna16.Config(**OPTIONS).options
    fields = {"source": "image", "target": "image", "source_type": "int16", "target_type": "int16"}
    data = data_config(
        tmp_path / "data", dataset="luna16", batch_size=2, repeat=3, **options | fields
    )
    pipeline.check_training(data)
    assert pipeline.num_training_examples(data) == 6
    (batch,) = pipeline.train_batches(data, 0, 1)
    stored = np.stack([record["image"] for record in read_split(directory, "train")])
    assert batch["source"].shape == (2, 9, 16, 16, 1) and batch["source"].dtype == np.int16
    np.testing.assert_array_equal(batch["source"], stored[batch["index"]])
    np.testing.assert_array_equal(batch["source"], batch["target"])


# Splits.


def test_subsets_decide_the_splits(source):
    files = {f"s{k}": (f"subset{k}", ".mhd", False) for k in range(10)}
    luna(source, files, masks=False)
    for name in FILES:
        for path in source.rglob(f"{name}*"):
            path.unlink()
    assert patients(source) == {
        "train": [f"s{k}" for k in range(8)],
        "validation": ["s8"],
        "test": ["s9"],
    }
    assert patients(source, test_subsets=(0, 1), validation_subsets=()) == {
        "train": [f"s{k}" for k in range(2, 10)],
        "validation": [f"s{k}" for k in range(2, 10)],
        "test": ["s0", "s1"],
    }


def test_named_patients_and_folds_come_before_subsets():
    series = [layouts.Series(f"p{n}", f"p{n}", f"subset{n}/p{n}.mhd", n, "") for n in range(10)]

    def held_out(**options):
        splits, _ = layouts.split(series, luna16.Config(**options), Path("/source"))
        assert sorted(one for part in splits.values() for one in part) == series
        return [{one.patient for one in splits[name]} for name in ("validation", "test")]

    assert held_out() == [{"p8"}, {"p9"}]
    assert held_out(test_patients="p0") == [{"p8"}, {"p0"}]
    assert held_out(validation_patients="p1") == [{"p1"}, {"p9"}]
    tested = [held_out(folds=2, fold=fold)[1] for fold in range(2)]
    assert not tested[0] & tested[1] and len(tested[0] | tested[1]) == 10


def test_notes_on_subsets_are_those_that_hold():
    numbers = {"a": (0, 9), "b": (0, 8), "c": (8,), "d": (9,), "e": (0,), "f": (0,), "g": (1,)}
    series = [
        layouts.Series(patient, f"{patient}{n}", f"subset{n}/{patient}{n}.mhd", n, "")
        for patient, subsets in numbers.items()
        for n in subsets
    ]

    def told(**options):
        _, notes = layouts.split(series, luna16.Config(**options), Path("/source"))
        return [note if isinstance(note, str) else note(str) for note in notes]

    several = "in subsets of several splits, taken to the one held out: "
    assert told() == ["test from subsets 9, validation from subsets 8", f"{several}a, b"]
    assert told(test_patients="e") == [
        "test from config.data.test_patients",
        "validation from subsets 8",
        f"{several}b",
    ]
    assert told(test_patients="b,e")[1:] == ["validation from subsets 8"]
    assert told(validation_patients="e") == [
        "validation from config.data.validation_patients",
        "test from subsets 9",
        f"{several}a",
    ]
    assert told(validation_patients="e", test_patients="f") == [
        "test from config.data.test_patients",
        "validation from config.data.validation_patients",
    ]
    assert not any("subsets" in note for note in told(folds=3))
    by_hash = told(test_patients="b,c")  # all of validation's own
    assert not any("subsets" in note for note in by_hash) and "sha256" in by_hash[0]


def test_volumes_in_no_subset_are_split_by_patient(tmp_path):
    files = {f"v{k}": ("scans", ".mhd", False) for k in range(20)}
    source = luna(tmp_path / "source", files, masks=False)
    order = sorted(files, key=lambda name: hashlib.sha256(f"luna16{name}".encode()).hexdigest())
    assert (
        patients(source)
        == {  # 0.15 of 20, then 0.1 of 17
            "test": sorted(order[:3]),
            "validation": sorted(order[3:5]),
            "train": sorted(order[5:]),
        }
    )


def test_a_patient_of_two_splits_is_held_out(source):
    rows = "1.3.6.1,A\n1.3.6.2,B\n1.3.6.3,C\n1.3.6.4,A\n"
    (source / "patients.csv").write_text(f"seriesuid,patient\n{rows}")
    assert patients(source) == {"train": ["B"], "validation": ["C"], "test": ["A"]}
    (note,) = [n for n in found(source).told() if "several splits" in n]
    assert note.endswith(": A")
    # A series in no subset joins its patient's other series.
    write(source / "more" / "1.3.6.5.mhd", ct(9))
    (source / "patients.csv").write_text(f"seriesuid,patient\n{rows}1.3.6.5,C\n")
    assert patients(source) == {"train": ["B"], "validation": ["C"], "test": ["A"]}


def test_an_empty_split_shares_the_training_volumes(tmp_path, capsys):
    files = {"a": ("subset0", ".mhd", False), "b": ("subset9", ".mhd", False)}
    source = luna(tmp_path / "source", files, masks=False)
    records = prepared(source, tmp_path)
    assert "no volume for validation, so it shares the training volumes" in capsys.readouterr().out
    assert {r["patient"] for r in records["validation"]} == {"a"} and len(records["train"]) == 9
    for record, other in zip(records["train"], records["validation"], strict=True):
        np.testing.assert_array_equal(record["image"], other["image"])


@pytest.mark.parametrize("place", ["", "subset0", "subset9"])
def test_one_volume_is_every_split(tmp_path, place):
    source = luna(tmp_path / "source", {"a": (place, ".mhd", False)}, masks=False)
    assert patients(source) == {split: ["a"] for split in SPLITS}
    assert "one patient in all" in found(source).told()[-1]


def test_two_volumes_in_no_subset_train_and_test(tmp_path):
    files = {name: ("", ".mhd", False) for name in "ab"}
    source = luna(tmp_path / "source", files, masks=False)
    splits = patients(source)
    assert splits["train"] == splits["validation"] and splits["train"] != splits["test"]
    lengths = {split: len(planes) for split, planes in found(source).splits.items()}
    assert lengths == dict.fromkeys(SPLITS, 9)


def test_lungs_may_be_of_any_known_label(tmp_path):
    lungs = np.zeros((3, 4, 5), np.uint8)
    lungs[1:, 1:3, 1:4] = 1
    for values in (lungs, lungs * 255, lungs * 3 + (lungs & (np.arange(5) > 2)).astype(np.uint8)):
        np.testing.assert_array_equal(volumes.lungs_of(values, "lungs.mhd"), lungs, strict=True)
    trachea = lungs * 3
    trachea[0, 0, 0] = 5
    np.testing.assert_array_equal(volumes.lungs_of(trachea, "lungs.mhd"), lungs)
    for value in (2, 9, 254):  # such as another program's second lung
        trachea[0, 0, 0] = value
        listed = ", ".join(map(str, sorted((0, 3, value))))
        with pytest.raises(DataError, match=rf"lungs\.mhd holds the values {listed}, and"):
            volumes.lungs_of(trachea, "lungs.mhd")


def test_masks_are_not_needed_or_read_without_lung_masks(source, monkeypatch):
    (source / MASKS / "1.3.6.1.mhd").write_text("spoilt")
    assert sum(map(len, found(source).splits.values())) == 4 * 9
    with pytest.raises(DataError, match="cannot be read"):
        found(source, lung_masks=True)


def test_a_mask_of_two_values_is_lungs_too(source, tmp_path):
    lungs = (labels(0) > 3).astype(np.uint8)
    write(source / MASKS / "1.3.6.1.mhd", lungs)
    config = luna16.Config(**OPTIONS | {"depth": 8, "lung_masks": True})
    series = found(source, lung_masks=True).splits["train"][0].series
    records = volumes.read(source, series, config)
    at = [np.floor(np.linspace(0, old - 1, 16) + 0.5).astype(int) for old in SHAPE[1:]]
    masks = np.stack([record["mask"][..., 0] for record in records])
    np.testing.assert_array_equal(masks, lungs[:, at[0]][:, :, at[1]])


def test_changed_voxels_beside_a_header_are_another_source(source, tmp_path):
    prepared(source, tmp_path)
    os.utime(source / "subset0" / "1.3.6.1.raw", ns=(0, 0))
    with pytest.raises(DataError, match="changed since: delete"):
        prepared(source, tmp_path)


def test_links_within_the_source_are_fine(source):
    (source / "originals").mkdir()
    for ending in ("mhd", "raw"):
        path = source / "subset0" / f"1.3.6.1.{ending}"
        target = source / "originals" / f"ct.{ending}x"
        path.rename(target)
        path.symlink_to(target)
    (source / "all").symlink_to(source)  # not followed, as it would have no end
    assert len(found(source).splits["train"]) == 18


# Refusals. Each function spoils a good source and returns what the message names, and the options.


def no_volumes(source):
    for path in source.rglob("1.3*"):
        path.unlink()
    return source, "holds no volume", {}


def series_twice(source):
    write(source / "subset3" / "1.3.6.1.nii.gz", ct(0))
    return source / "subset3" / "1.3.6.1.nii.gz", "the same series", {}


def no_mask(source):
    (source / MASKS / "1.3.6.2.mhd").unlink()
    return source / "subset0" / "1.3.6.2.mhd", "has no lung mask", {"lung_masks": True}


def other_grid(source):
    write(source / MASKS / "1.3.6.1.mhd", labels(0, (8, 10, 11)))
    return source / MASKS / "1.3.6.1.mhd", "its shape is (11, 10, 8)", {"lung_masks": True}


def smaller_than_a_crop(source):
    return (
        source / "subset0" / "1.3.6.1.mhd",
        "less than the 9 x 8 x 8 of a crop: set",
        {
            "crops": 1,
            "stored_size": 8,
        },
    )


def smaller_than_a_crop_once_isotropic(source):
    word = "has 4 x 2 x 2 voxels of 4 mm, less than the 3 x 3 x 3"
    options = {"crops": 1, "stored_size": 3, "depth": 3, "isotropic_mm": 4.0}
    return source / "subset0" / "1.3.6.1.mhd", word, options


def one_slice(source):
    write(source / "subset0" / "thin.mhd", ct(0, (1, 10, 12)))
    return source / "subset0" / "thin.mhd", "2 or more along each axis", {}


def nothing_to_train_on(source):
    options = {"test_subsets": (9, 0), "validation_subsets": (8,)}
    return source, "no volume to train on: all are of test_subsets 9, 0", options


def no_voxels(source):
    (source / "subset0" / "1.3.6.1.raw").unlink()
    return source / "subset0" / "1.3.6.1.raw", "cannot be read as the voxels of", {}


def truncated_voxels(source):
    path = source / "subset0" / "1.3.6.1.raw"
    os.truncate(path, 100)
    return path, "no 1920 bytes", {}


def voxels_linked_outside(source):
    path = source / "subset0" / "1.3.6.1.raw"
    path.rename(source.parent / "ct.raw")
    path.symlink_to(source.parent / "ct.raw")
    return path, "outside", {}


def empty_file(source):
    (source / "subset0" / "1.3.6.1.mhd").write_bytes(b"")
    return source / "subset0" / "1.3.6.1.mhd", "is empty", {}


def table(text, word):
    def spoil(source):
        (source / "patients.csv").write_text(text)
        return source / "patients.csv", word, {}

    return spoil


no_column = table("series,patient\n1.3.6.1,A\n", "no column seriesuid")
no_patient = table("seriesuid,patient\n1.3.6.1,\n", "no patient in line 2")
two_patients = table("seriesuid,patient\n1.3.6.1,A\n1.3.6.1,B\n", "a second patient in line 3")
not_listed = table("seriesuid,patient\n1.3.6.1,A\n", "no line for 1.3.6.2")


def damaged_stream(source):
    path = source / "subset0" / "1.3.6.2.zraw"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path, "cannot be read as the voxels of", {}


def not_hu(source):
    write(source / "subset0" / "1.3.6.1.mhd", np.ones(SHAPE, np.float32))
    return source / "subset0" / "1.3.6.1.mhd", "no HU", {}


BY_CONTENT = [damaged_stream, not_hu]
SPOILS = {
    spoil.__name__: spoil
    for spoil in [
        no_volumes, series_twice, no_mask, other_grid, smaller_than_a_crop,
        smaller_than_a_crop_once_isotropic, one_slice, nothing_to_train_on, no_voxels,
        truncated_voxels, voxels_linked_outside, empty_file, *BY_CONTENT,
    ]
} | {
    "no_column": no_column, "no_patient": no_patient, "two_patients": two_patients,
    "not_listed": not_listed,
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_refuses(source, tmp_path, spoil, monkeypatch):
    path, word, options = SPOILS[spoil](source)
    if SPOILS[spoil] not in BY_CONTENT:  # nothing is decoded
        monkeypatch.setattr(volumes, "read_ct", None)
        monkeypatch.setattr(volumes, "read_labels", None)
    with pytest.raises(DataError) as caught:
        prepare("luna16", source, tmp_path / "data", **OPTIONS | options)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")
    assert word in text and "\n" not in text
    assert not list((tmp_path / "data").rglob("*/dataset_info.json"))


@pytest.mark.parametrize(
    "option",
    [
        {"depth": 1},
        {"stored_size": 1},
        {"crops": -1},
        {"isotropic_mm": -1.0},
        {"isotropic_mm": 0.01},
        {"clip_hu": (1000, -1000)},
        {"clip_hu": (-1000,)},
        {"clip_hu": (-40000, 0)},
        {"test_subsets": (8, 9)},
        {"test_fraction": 0.0},
        {"validation_fraction": 1.0},
    ],
)
def test_refuses_options(option):
    with pytest.raises(DataError, match=next(iter(option))):
        luna16.Config(**OPTIONS | option)


def test_each_option_has_a_place_of_its_own():
    names = {
        luna16.Config(**OPTIONS | option).name
        for option in ({}, {"crops": 2}, {"lung_masks": True}, {"clip_hu": (-900, 1000)})
    }
    assert len(names) == 4
