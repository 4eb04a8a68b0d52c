"""A prepared folder's description is read as TFDS reads it, and nothing else is accepted."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline import pipeline, prepared, prepared_files
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.safety.tables import csv_text
from tests import peak_memory
from tests.input_pipeline.conftest import OPTIONS, data_config, write_slice

DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
EVIL = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
NAMED = "evil_features.Thing"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for split, patient in (("train", "1"), ("train", "2"), ("test", "3")):
        for index in range(3):
            write_slice(folder / "source", split, "clean", f"LIDC-IDRI-000{patient}", index)
    prepare("lidc_masks", folder / "source", folder / "data", **OPTIONS)
    return folder / "data"


@pytest.fixture
def data(whole, tmp_path):
    """config.data for a copy of the folder."""
    shutil.copytree(whole, tmp_path / "data")
    return data_config(tmp_path / "data", batch_size=1)


def refusal(data, name):
    """The error about this file of the folder, after a check that it is one line."""
    path = prepared.ensure_prepared(data) / name
    with pytest.raises(DataError, match="delete the folder and prepare it again") as caught:
        pipeline.check_training(data)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as ") and "\n" not in message
    assert message.isascii() and len(message) < 1000
    return message


def change(data, name, edit):
    """Changes a JSON file of the folder by edit(content), which may return a replacement."""
    path = prepared.ensure_prepared(data) / name
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content))


def test_names_of_a_shards_table_come_back_as_they_were(tmp_path):
    columns = ["patient", "slice_index", "class", "file_name", "spacing_mm"]
    rows = [["=1+1", -3, "", "-a/@b.nii", "1.0 0.5 0.5"], ["'=c", 0, "+d", "Müller", "1 1 1"]]
    (tmp_path / "shard.csv").write_text(csv_text(columns, rows))
    first, second = prepared_files.read_table(tmp_path / "shard.csv", 2)
    assert first == ("=1+1", -3, "", "-a/@b.nii", (1.0, 0.5, 0.5))
    assert second[:4] == ("'=c", 0, "+d", "Müller")


def test_shapes_types_and_shards_are_those_that_tfds_finds(data):
    directory = prepared.ensure_prepared(data)
    info = tfds.builder_from_directory(directory).info
    arrays = {name: feature for name, feature in info.features.items() if len(feature.shape) == 3}
    assert prepared_files.read_arrays(directory) == {
        name: (feature.shape, np.dtype(feature.np_dtype)) for name, feature in arrays.items()
    }
    for split, found in info.splits.items():
        shards = zip(map(str, found.filepaths), found.shard_lengths, strict=True)
        assert prepared_files.read_shards(directory, split) == list(shards)


def legacy(name):
    return {"type": name, "content": {}, "proto_cls": ""}


# Each makes TFDS import the module of NAMED.
HOSTILE = {
    "at the top": lambda top: {**top, "pythonClassName": NAMED},
    "within": lambda top: top["featuresDict"]["features"]["class"].update(pythonClassName=NAMED),
    "in another spelling": lambda top: {"python_class_name": NAMED, "tensor": {}},
    "in the form before": lambda top: legacy(NAMED),
    "in text": lambda top: {
        "pythonClassName": DICT,
        "jsonFeature": {"json": json.dumps({"image": legacy(NAMED)})},
    },
    "deeper": lambda top: top["featuresDict"]["features"].update(
        {"class": {"pythonClassName": DICT, "featuresDict": {"features": {"a": {
            "pythonClassName": NAMED, "tensor": {}}}}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", HOSTILE)
def test_no_module_that_a_folder_names_is_imported(data, tmp_path, monkeypatch, place):
    (tmp_path / "evil_features.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    change(data, "features.json", HOSTILE[place])
    ran = tmp_path / "evil_features.ran"
    refusal(data, "features.json")
    assert not ran.exists() and "evil_features" not in sys.modules
    # It does harm when TFDS opens the folder.
    with pytest.raises(Exception):  # noqa: B017  whatever it makes of the class that is not there
        tfds.builder_from_directory(prepared.ensure_prepared(data))
    assert ran.exists()
    del sys.modules["evil_features"]


def tensor(top):
    return top["featuresDict"]["features"]["image"]["tensor"]


# name: (file, content -> its replacement, or None if changed in place; part of the message).
DAMAGED = {
    "a list": ("features.json", lambda top: [top], "list indices"),
    "no features": ("features.json", lambda top: top.pop("featuresDict") and None, "featuresDict"),
    "four axes": (
        "features.json",
        lambda top: tensor(top)["shape"].update(dimensions=["16", "16", "1", "1"]),
        "an array of shape (16, 16, 1, 1)",
    ),
    "large": (
        "features.json",
        lambda top: tensor(top)["shape"].update(dimensions=["99999", "99999", "1"]),
        "an array of shape (99999, 99999, 1)",
    ),
    "long": (
        "features.json",
        lambda top: tensor(top)["shape"].update(dimensions=["1", "1", "8193"]),
        "an array of shape (1, 1, 8193)",
    ),
    "large together": (
        "features.json",
        lambda top: tensor(top)["shape"].update(dimensions=["8192", "8192", "17"]),
        "records above the limit of 1073741824 bytes",
    ),
    "many": (
        "features.json",
        lambda top: top["featuresDict"]["features"].update(
            {f"a{n}": top["featuresDict"]["features"]["image"] for n in range(17)}
        ),
        "records above the limit",
    ),
    "below zero": (
        "features.json", lambda top: tensor(top)["shape"].update(dimensions=["-16", "-16", "1"]),
        "'-16' where a number",
    ),
    "a bool": (
        "features.json", lambda top: tensor(top)["shape"].update(dimensions=[16, True, 16]),
        "True where a number",
    ),
    "a type": ("features.json", lambda top: tensor(top).update(dtype="object"), "type 'object'"),
    "a name": (
        "features.json",
        lambda top: top["featuresDict"]["features"].update(
            {"a\nb": top["featuresDict"]["features"]["image"]}
        ),
        "'a\\nb'",
    ),
    "no splits": ("dataset_info.json", lambda info: info.pop("splits") and None, "splits"),
    "no split": (
        "dataset_info.json", lambda info: info.update(splits=info["splits"][1:]), "no 'train'"
    ),
    "a long shard": (
        "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["100000000"]),
        "above the limits of 262144 and 10000000",
    ),
    "long shards": (
        "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["262144"] * 99),
        "a split 25952256, above",
    ),
    "a length": (
        "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["9" * 30]),
        "where a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("harm", DAMAGED)
def test_what_does_not_fit_is_one_line(data, harm):
    name, edit, said = DAMAGED[harm]
    change(data, name, edit)
    assert said in refusal(data, name)


@pytest.mark.parametrize("lengths", [[], ["0"]])
def test_an_empty_split_is_one_line(data, lengths):
    def emptied(info):
        for split in info["splits"]:
            if split["name"] == "test":
                split["shardLengths"] = lengths

    change(data, "dataset_info.json", emptied)
    with pytest.raises(DataError, match="holds no example of the split test: use another split"):
        prepared.examples(data, "test")
    assert prepared.examples(data, "train")


def test_arrays_have_the_size_of_the_config(data):
    change(
        data, "features.json", lambda top: tensor(top)["shape"].update(dimensions=[8192, 8192, 1])
    )
    with pytest.raises(
        DataError, match=r"image is of \(8192, 8192, 1\), and config.data.stored_size"
    ):
        pipeline.check_training(data)


def test_a_table_is_read_up_to_the_rows_of_its_shard(data):
    (path,) = prepared.ensure_prepared(data).glob("*-train.array_record-*.csv")
    with path.open("a") as file:
        file.write("a,0,,b,0 0 0\n" * 10**6)
    rows = []

    def read():
        with pytest.raises(DataError, match="more than 3 rows, its shard 3") as caught:
            pipeline.check_training(data)
        rows.append(caught.value)

    assert peak_memory.megabytes(read) < 120  # the text; a list of rows would take 400


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_a_damaged_description_is_one_line(data, name):
    path = prepared.ensure_prepared(data) / name
    content = path.read_bytes()
    for damaged in (content[:-9], b"", b"\xff" * 50, b"[" * 99_999, b"{}"):
        path.write_bytes(damaged)
        refusal(data, name)
    path.unlink()
    assert "No such file" in refusal(data, name)
    path.write_bytes(content + b" " * prepared_files.MAX_BYTES)
    assert "above the limit" in refusal(data, name)
