"""The base of all builders, on volumes: groups of many slices, classes known after decoding."""

import csv
import dataclasses
import json
import time
import types
import weakref
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from input_pipeline import pipeline
from input_pipeline import prepare as preparation
from input_pipeline.preparation import builder
from input_pipeline.preparation.source_folder import SourceFolder
from input_pipeline.prepared import ensure_prepared, examples
from input_pipeline.prepared_files import Example
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import data_config, read_split

SLICES = {"a": 5, "b": 7, "c": 2, "d": 3}  # of the training volumes


class Slice(NamedTuple):
    patient: str
    slice_index: int
    label: str
    file_name: str


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(builder.Config):
    window: tuple = (0, 9)
    share: float = 0.5
    method: str = "plain"


class Volumes(builder.Builder):
    description = "Volumes as .npy."
    arrays: ClassVar = {
        "image": builder.Pixels(np.int16, "made up"),
        "mask": builder.Pixels(np.uint8, "made up"),
        "ct": builder.Pixels(np.uint16, "made up", channels=2),
    }

    def read(self, source, group):
        volume = np.load(source / group[0].file_name)
        time.sleep(0.01 * (group[0].patient == "a"))  # the first is the last to be ready
        return [
            {
                "image": volume[item.slice_index][..., None],
                "mask": (volume[item.slice_index] > 0).astype(np.uint8)[..., None],
                "ct": _ct(volume[item.slice_index]),
                "class": "even" if item.slice_index % 2 == 0 else "odd",
                "spacing_mm": (2.5, 0.7, 0.1),
            }
            for item in group
        ]


def _ct(plane):
    return np.stack([plane, plane + 1], -1).astype(np.uint16) * np.uint16(9)


def find(source, config):
    folder = SourceFolder(source)
    splits = {}
    for split in ("train", "validation", "test"):
        splits[split] = []
        for entry in folder.entries(folder.root / split):
            name = folder.add(entry)
            depth = len(np.load(entry.path, mmap_mode="r"))
            splits[split] += [Slice(Path(name).stem, k, "", name) for k in range(depth)]
    return builder.Found(splits, folder.fingerprint, ["three folders"], folder.account())


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setitem(
        preparation.DATASETS,
        "volumes",
        types.SimpleNamespace(Config=Config, Builder=Volumes, find=find),
    )
    source = tmp_path / "source"
    rng = np.random.default_rng(0)
    for split, volumes in (("train", SLICES), ("validation", {"e": 2}), ("test", {"f": 1})):
        (source / split).mkdir(parents=True)
        for name, depth in volumes.items():
            volume = rng.integers(-1000, 1000, (depth, 4, 4), np.int16)
            np.save(source / split / f"{name}.npy", volume)
    return source


def prepared(source, data_dir, **options):
    return preparation.prepare("volumes", source, data_dir, stored_size=4, **options)


def test_volumes_come_whole_and_in_order(source, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_SIZE", 6)
    directory = prepared(source, tmp_path / "data")
    records = read_split(directory, "train")
    assert [(r["patient"], r["slice_index"]) for r in records] == [
        (name, k) for name, depth in SLICES.items() for k in range(depth)
    ]
    for record in records:
        volume = np.load(source / record["file_name"])
        np.testing.assert_array_equal(record["image"][..., 0], volume[record["slice_index"]])
        assert record["image"].dtype == np.int16 and record["mask"].dtype == np.uint8
        np.testing.assert_array_equal(record["ct"], _ct(volume[record["slice_index"]]), strict=True)
        assert record["class"] == ("even", "odd")[record["slice_index"] % 2]
        np.testing.assert_array_equal(record["spacing_mm"], np.float32([2.5, 0.7, 0.1]))
    summary = json.loads((directory / "dataset_info.json").read_text())
    lengths = {split["name"]: split["shardLengths"] for split in summary["splits"]}
    # A shard ends with the volume that fills it.
    assert lengths == {"train": ["12", "5"], "validation": ["2"], "test": ["1"]}


def test_tables_describe_the_records(source, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_SIZE", 6)
    directory = prepared(source, tmp_path / "data")
    for split, count in (("train", 17), ("validation", 2), ("test", 1)):
        rows = []
        for path in sorted(directory.glob(f"volumes-{split}.*.csv")):
            with path.open() as file:
                rows += csv.DictReader(file)
        assert rows == [
            {
                "patient": record["patient"],
                "slice_index": str(record["slice_index"]),
                "class": record["class"],
                "file_name": record["file_name"],
                "spacing_mm": "2.5 0.7 0.1",
            }
            for record in read_split(directory, split)
        ]
        assert len(rows) == count
    with (directory / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["patient"], row["examples"]) for row in rows] == [
        *(("train", name, str(depth)) for name, depth in SLICES.items()),
        ("validation", "e", "2"),
        ("test", "f", "1"),
    ]
    assert rows[0]["file_name"] == "train/a.npy"
    options = ["stored_size", "test_patients", "validation_patients", "folds", "fold"]
    assert Config.option_names() == [*options, "window", "share", "method"]
    data = data_config(tmp_path / "data", dataset="volumes", window=[0, 9], share=0.5)
    data.update(stored_size=4, method="plain")
    table = examples(data, "train")
    assert table[3] == Example("a", 3, "odd", "train/a.npy", (2.5, 0.7, 0.1))
    assert len(table) == 17


@pytest.fixture
def of_arrays(source, tmp_path):
    """config.data whose source is the array "ct"."""
    data = data_config(tmp_path / "data", dataset="volumes", window=(0, 9), share=0.5)
    data.update(stored_size=4, image_size=4, method="plain")
    data.update(source="ct", source_type="uint16", source_channels=2, target_type="uint8")
    data.target = "mask"
    prepared(source, tmp_path / "data")
    return data


def test_batches_are_of_any_array(of_arrays, tmp_path):
    records = read_split(ensure_prepared(of_arrays), "train")
    of_arrays.update(flip=True, load_size=6, batch_size=17)
    for batch in pipeline.train_batches(of_arrays, 0, 2):
        assert batch["source"].dtype == np.uint16 and batch["source"].shape == (17, 4, 4, 2)
        assert batch["source"].max() > 32767  # values above half of 65535 do not wrap
    of_arrays.update(load_size=0, batch_size=5)
    for batch in pipeline.eval_batches(of_arrays, "train"):
        for place in np.flatnonzero(batch["index"] >= 0):
            record = records[batch["index"][place]]
            np.testing.assert_array_equal(batch["source"][place], record["ct"], strict=True)
            np.testing.assert_array_equal(batch["target"][place], record["mask"], strict=True)


def test_an_array_that_is_not_stored_is_named(of_arrays):
    of_arrays.target = "spacing_mm"
    with pytest.raises(DataError, match='target is "spacing_mm": use ct or image or mask'):
        pipeline.check_training(of_arrays)


def test_a_missing_option_is_named(source, tmp_path):
    data = data_config(tmp_path / "data", dataset="volumes", window=(0, 9))
    with pytest.raises(DataError, match=r"config\.data\.share is missing"):
        ensure_prepared(data)


def test_the_report_knows_no_classes_that_are_read_late(source, tmp_path, capsys):
    directory = prepared(source, tmp_path / "data")
    out = capsys.readouterr().out.splitlines()
    assert "  train: 17 slices of 4 patients" in out and "  three folders" in out
    record = json.loads((directory / "preparation.json").read_text())
    assert record["splits"]["train"] == {"examples": 17, "patients": 4, "classes": {}}
    assert record["options"] == {
        "stored_size": 4, "window": [0, 9], "share": 0.5, "method": "plain",
        "test_patients": "", "validation_patients": "", "folds": 0, "fold": 0,
    }  # fmt: skip


def test_names_are_those_of_folders(source):
    def name(**options):
        return Config(stored_size=4, **options).name

    assert name() == "4_0-9_0.5_plain"
    assert name(window=[0, 9]) == name(window=(0, 9))
    assert name(share=1.0) == "4_0-9_1_plain"
    names = {name(), name(window=(0, 8)), name(share=0.25), name(method="(a/b)"), name(method="..")}
    names |= {name(share=0.1234567), name(share=0.1234568)}
    held = {name(test_patients="Doe"), name(validation_patients="Doe"), name(folds=5, fold=1)}
    names |= held | {name(folds=5)}
    assert len(names) == 11 and not any("/" in name or "Doe" in name for name in names)
    assert name(test_patients="b, a") == name(test_patients="a,b")
    assert name(folds=5, fold=1) == "4_0-9_0.5_plain_fold1of5"


@pytest.mark.parametrize(
    "options",
    [{"folds": 1}, {"folds": 5, "fold": 5}, {"fold": 1}, {"folds": 5, "test_patients": "a"}],
    ids=str,
)
def test_folds_that_say_nothing_or_two_things_are_refused(options):
    with pytest.raises(DataError, match=r"config\.data\.fold"):
        Config(stored_size=4, **options)


def test_an_error_names_the_first_bad_volume(source, tmp_path):
    def read(self, source, group):
        if group[0].patient in "bd":
            raise DataError(f"{group[0].file_name} is bad")
        return good(self, source, group)

    good = Volumes.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Volumes, "read", read)
        with pytest.raises(DataError, match=r"train/b\.npy is bad"):
            prepared(source, tmp_path / "data")
    assert prepared(source, tmp_path / "data").exists()


def test_nothing_is_read_again(source, tmp_path, monkeypatch):
    directory = prepared(source, tmp_path / "data")
    monkeypatch.setattr(Volumes, "read", None)
    assert prepared(source, tmp_path / "data") == directory


def test_memory_does_not_grow_with_the_shard(source, tmp_path, monkeypatch):
    """TFDS keeps a shard's examples until it has counted them."""
    for k in range(60):
        np.save(source / "train" / f"g{k}.npy", np.zeros((1, 4, 4), np.int16))
    monkeypatch.setattr(builder, "THREADS", 2)
    alive, most = weakref.WeakSet(), []

    class Image(np.ndarray):
        """An np.ndarray that a WeakSet can hold."""

        __hash__ = object.__hash__

    def read(self, source, group):
        examples = good(self, source, group)
        for example in examples:
            example["image"] = example["image"].view(Image)
            alive.add(example["image"])
        most.append(len(alive))
        return examples

    good = Volumes.read
    monkeypatch.setattr(Volumes, "read", read)
    prepared(source, tmp_path / "data")
    assert len(most) == 66 and max(most) < 30  # 17 of whole volumes, and those read ahead
