"""Prepared records with flipped bytes are named and refused, or skipped alike everywhere."""

import json
import os
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from input_pipeline import pipeline, prepared, prepared_files
from input_pipeline.preparation import builder
from input_pipeline.prepare import prepare
from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.evaluation.slices import collect
from tests import commands
from tests.faults import runs
from tests.input_pipeline.conftest import OPTIONS, data_config, write_slice
from tests.tiny import quickstart_data

RECORDS = 14  # of training, in shards of 4, 4, 4 and 2
# {damaged record: its replacement}. After the last record comes the first.
INSTEAD = {2: 4, 3: 4, 6: 7, 13: 0}
PATIENT = "LIDC-IDRI-{:04d}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two training patients of 7 consecutive slices each; 3 slices for validation, 3 for test."""
    folder = tmp_path_factory.mktemp("whole")
    for split, patient in (("train", 1), ("train", 2), ("val", 3), ("test", 4)):
        for index in range(7 if split == "train" else 3):
            write_slice(folder / "source", split, "clean", PATIENT.format(patient), index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_SIZE", 4)
        prepare("lidc_masks", folder / "source", folder / "data", **OPTIONS)
    return data_config(folder / "data")


@pytest.fixture
def data(whole, tmp_path):
    """config.data of a copy in which the records of INSTEAD are damaged."""
    shutil.copytree(whole.data_dir, tmp_path / "data")
    data = data_config(tmp_path / "data", on_error="skip")
    for number in INSTEAD:
        damage(shard(data, number // 4), number % 4)
    return data


def shard(data, number, split="train"):
    directory = prepared.ensure_prepared(data)
    (path,) = directory.glob(f"lidc_masks-{split}*-{number:05d}-of-?????")
    return path


def damage(path, position):
    """Flips some bytes in the middle of a record, where its pixels are."""
    reader = ArrayRecordReader(str(path))
    (record,) = reader.read([position])
    reader.close()
    content = bytearray(path.read_bytes())
    # Find it by its beginning: the format puts headers into longer records.
    start = content.index(record[:512]) + len(record) // 2
    for place in range(start, start + 3):
        content[place] ^= 0xFF
    path.write_bytes(content)


def joined(per_host):
    return [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*per_host, strict=True)
    ]


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for key in other:
            np.testing.assert_array_equal(batch[key], other[key])


def read_all(data, cache):
    data.cache = cache
    if cache == "device":
        return pipeline.train_set(data)
    return list(pipeline.train_batches(data, 0, 3))


@pytest.mark.parametrize("cache", pipeline.CACHES)
def test_raise_names_file_record_patient_and_slice(data, cache):
    data.on_error = "raise"
    with pytest.raises(DataError) as caught:
        read_all(data, cache)
    message = str(caught.value)
    named = {
        f"{shard(data, number // 4)}, record {number % 4}, which is patient "
        f"{PATIENT.format(1 + number // 7)}, slice {number % 7}, cannot be read"
        for number in INSTEAD
    }
    assert any(message.startswith(text) for text in named), message
    assert "on_error" in message and "prepare it again" in message and "\n" not in message


@pytest.mark.parametrize("cache", ["none", "host"])
@pytest.mark.parametrize("fields", [{}, {"flip": True, "load_size": 20}], ids=["plain", "crops"])
def test_skip_trains_on_the_next_readable_record_on_any_number_of_hosts(whole, data, cache, fields):
    for config in (whole, data):
        config.update(fields)
    data.cache = cache
    pipeline.check_training(data)
    batches = list(pipeline.train_batches(data, 0, 9))
    undamaged = list(pipeline.train_batches(whole, 0, 9))
    assert_equal(batches, [{"index": batch["index"]} for batch in undamaged])
    seen = set(np.concatenate([batch["index"] for batch in batches]))
    assert seen == set(range(RECORDS))
    if not fields:
        records = pipeline.train_set(whole)
        for batch in batches:
            read = [INSTEAD.get(index, index) for index in batch["index"].tolist()]
            for key in ("source", "target"):
                np.testing.assert_array_equal(batch[key], records[key][read])
    per_host = [list(pipeline.train_batches(data, 0, 9, host, 2)) for host in range(2)]
    assert_equal(joined(per_host), batches)
    # Neither what was read before nor the place of a record in its batch changes anything.
    assert_equal(pipeline.train_batches(data, 7, 9), batches[7:])
    for config in (whole, data):
        config.update({"flip": False, "load_size": 0})


def test_a_device_gets_the_same(whole, data):
    expected, found = pipeline.train_set(whole), pipeline.train_set(data)
    for key, images in expected.items():
        read = [INSTEAD.get(number, number) for number in range(RECORDS)]
        np.testing.assert_array_equal(found[key], images[read])


def test_each_is_reported_once(data, capsys):
    for _ in range(2):
        pipeline.train_set(data)
        list(pipeline.eval_batches(data, "train"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(INSTEAD)
    for number, instead in INSTEAD.items():
        (line,) = (
            line
            for line in lines
            if f"{shard(data, number // 4)}, record {number % 4}, which" in line.split(" in its")[0]
            and f"slice {number % 7}, cannot" in line
        )
        assert line.startswith("warning: ")
        assert f"training sees {shard(data, instead // 4)}, record {instead % 4}," in line
        assert PATIENT.format(1 + number // 7) in line


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_leaves_out_what_cannot_be_read(whole, data, hosts):
    expected = list(pipeline.eval_batches(whole, "train"))
    per_host = [list(pipeline.eval_batches(data, "train", host, hosts)) for host in range(hosts)]
    found = np.concatenate([batch["index"] for batch in joined(per_host)])
    assert found.tolist() == [
        *(-1 if number in INSTEAD else number for number in range(RECORDS)),
        *(-1, -1),
    ]
    for batch, other in zip(joined(per_host), expected, strict=True):
        rows = batch["index"] >= 0
        for key in ("source", "target"):
            np.testing.assert_array_equal(batch[key][rows], other[key][rows])


def test_evaluation_leaves_out_what_depends_on_it(data):
    data.depth = 3  # runs 0 1 2, 3 4 5 and 4 5 6, and the same for 7 to 13
    (first, second) = (batch["index"].tolist() for batch in pipeline.eval_batches(data, "train"))
    none = [-1, -1, -1]
    assert first == [none, none, none, [7, 8, 9]]
    assert second[:2] == [[10, 11, 12], none]
    data.depth, data.context = 0, 1
    index = np.concatenate([batch["index"] for batch in pipeline.eval_batches(data, "train")])
    # 2, 3, 6, 13 and their neighbours in the same patient are left out.
    assert index.tolist() == [0, -1, -1, -1, -1, -1, -1, 7, 8, 9, 10, 11, -1, -1, -1, -1]


@pytest.mark.parametrize("harm", ["missing", "empty", "truncated", "of others"])
def test_a_whole_shard_is_named_and_skipped(whole, data, harm, capsys):
    path = shard(data, 2)
    if harm == "missing":
        path.unlink()
    elif harm == "of others":
        shutil.copy(shard(whole, 3), path)
    else:
        path.write_bytes(path.read_bytes()[: 70_000 if harm == "truncated" else 0])
    records, read = pipeline.train_set(whole), dict.fromkeys(range(8, 12), 12) | INSTEAD
    found = pipeline.train_set(data)
    for key, images in records.items():
        expected = images[[read.get(number, number) for number in range(RECORDS)]]
        np.testing.assert_array_equal(found[key], expected)
    lines = [line for line in capsys.readouterr().err.splitlines() if f"{path} with" in line]
    assert len(lines) == 1 and f"its 4 records, of patients {PATIENT.format(2)}," in lines[0]
    data.on_error = "raise"
    with pytest.raises(DataError, match="with its 4 records") as caught:
        list(pipeline.eval_batches(data, "train", indices=[8]))
    assert str(path) in str(caught.value)


def other(example):
    """Ways to change an example that leave the checksums right."""
    features = example.features.feature
    return {
        "short": lambda: features["image"].bytes_list.CopyFrom(bytes_list(bytes(9))),
        "missing": lambda: features.pop("image"),
        "numbers": lambda: features["image"].int64_list.value.append(1),
        "empty": example.Clear,
    }


def bytes_list(content):
    return tf.train.BytesList(value=[content])


def write_again(path, position, content):
    """Rewrites the shard with content(record) for one record, which may be no example."""
    reader = ArrayRecordReader(str(path))
    records = reader.read(list(range(reader.num_records())))
    reader.close()
    records[position] = content(records[position])
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("harm", ["short", "missing", "numbers", "empty", "no example"])
def test_other_content_with_right_checksums_is_named_and_skipped(whole, tmp_path, harm):
    shutil.copytree(whole.data_dir, tmp_path / "data")
    data = data_config(tmp_path / "data")

    def content(record):
        if harm == "no example":
            return b"\xff" * 99
        example = tf.train.Example.FromString(record)
        other(example)[harm]()
        return example.SerializeToString()

    path = shard(data, 1)
    write_again(path, 2, content)
    for read in (pipeline.train_set, lambda data: list(pipeline.eval_batches(data, "train"))):
        with pytest.raises(DataError) as caught:
            read(data)
        message = str(caught.value)
        assert message.startswith(
            f"{path}, record 2, which is patient {PATIENT.format(1)}, slice 6"
        )
        assert "\n" not in message and "prepare it again" in message
    data.on_error = "skip"
    expected, found = pipeline.train_set(whole), pipeline.train_set(data)
    for key, images in expected.items():
        read = [7 if number == 6 else number for number in range(RECORDS)]
        np.testing.assert_array_equal(found[key], images[read])


def test_nothing_readable_is_one_error(data):
    for number in range(4):
        shard(data, number).write_bytes(b"")
    for read in (
        lambda: pipeline.train_set(data),
        lambda: list(pipeline.train_batches(data, 0, 1)),
        lambda: list(pipeline.eval_batches(data, "train")),
    ):
        with pytest.raises(DataError, match="holds no record of train that can be read"):
            read()


@pytest.mark.parametrize(
    "harm",
    ["missing", "cut", "no text", "short", "a column", "one more", "spacing", "index", "large"],
)
def test_a_damaged_table_is_one_line(data, harm):
    path = shard(data, 1)
    path = path.with_name(f"{path.name}.csv")
    lines = path.read_text().splitlines(keepends=True)
    damaged = {
        "cut": path.read_bytes()[:-9],
        "no text": b"\xff" * 50,
        "short": "".join(lines[:-1]).encode(),
        "a column": "".join(["patient,slice\n", *lines[1:]]).encode(),
        "one more": "".join([lines[0], *(f"{line.rstrip()},x\n" for line in lines[1:])]).encode(),
        "spacing": "".join([*lines[:-1], f"{PATIENT},0,clean,a.png,nan 1 1\n"]).encode(),
        "index": "".join([*lines[:-1], f"{PATIENT},{10**30},clean,a.png,0 0 0\n"]).encode(),
    }
    if harm == "missing":
        path.unlink()
    elif harm == "large":
        os.truncate(path, prepared_files.MAX_TABLE_BYTES + 1)
    else:
        path.write_bytes(damaged[harm])
    with pytest.raises(DataError, match="delete the folder and prepare it again") as caught:
        pipeline.check_training(data)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_other_values_are_refused(data):
    data.on_error = "ignore"
    with pytest.raises(DataError, match='on_error is "ignore": use one of raise, skip'):
        pipeline.check_training(data)


def test_scores_are_of_the_slices_that_were_read():
    batches = [{"source": x, "target": x, "index": x} for x in (np.array([4, -1, 0]), [-1, 3, -1])]

    def score(batch):
        return {"index": np.asarray(batch["index"]), "value": 10.0 * np.asarray(batch["source"])}

    index, columns = collect(score, batches)
    assert index.tolist() == [0, 3, 4] and columns["value"].tolist() == [0, 30, 40]
    nothing = [batch | {"index": np.full(3, -1)} for batch in batches]
    with pytest.raises(ConfigError, match="nothing to score"):
        collect(score, nothing)


@pytest.fixture(scope="module")
def damaged_sample(tmp_path_factory):
    """The chest CT as tiny_training wants it; a record of each split is damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    data = sample_data(folder)
    damage(shard(data, 0), 5)
    damage(shard(data, 0, "test"), 1)
    damage(shard(data, 0, "validation"), 3)
    return folder


def sample_data(folder):
    data = quickstart_data(folder)
    data.image_size = commands.TINY["lidc_mask2ct"]["data.image_size"]
    return data


def arguments(damaged_sample, workdir, **fields):
    fields = {"epochs": 1, "constant_epochs": 1, "sample_every_epochs": 1} | fields
    return commands.tiny_training(workdir, damaged_sample, **fields)


@pytest.mark.slow
def test_a_run_ends_with_one_line(damaged_sample, tmp_path):
    _, err = commands.run("launch.train", *arguments(damaged_sample, tmp_path / "run"), code=1)
    line = commands.error_line(err)
    assert "-train.array_record-00000-of-00001, record 5, which is patient " in line


@pytest.mark.slow
def test_a_run_skips_and_scores_what_is_left(damaged_sample, tmp_path):
    workdir = tmp_path / "run"
    skip = {"data.on_error": "skip"}
    _, err = commands.run("launch.train", *arguments(damaged_sample, workdir, **skip))
    for split, position in (("train", 5), ("validation", 3)):
        named = f"-{split}.array_record-00000-of-00001, record {position}, which"
        assert err.count(f"{named}") == 1, err
        assert runs.logged(workdir, 0, "WARNING .*" + named)
    (scores,) = commands.metrics(workdir, "validation")
    assert np.isfinite(scores["ssim"])
    commands.run("launch.evaluate", f"--workdir={workdir}", "--split=test")
    results = json.loads((workdir / "evaluation" / "test.json").read_text())["results"]
    total = len(prepared.examples(sample_data(damaged_sample), "test"))
    for of_model in results.values():
        assert of_model["overall"]["images"] == total - 1
