"""2.5D examples: a slice's neighbours as channels of its source."""

import itertools

import numpy as np
import pytest

from input_pipeline import pipeline, prepared
from input_pipeline.example_slices import with_neighbours
from input_pipeline.preparation import builder
from input_pipeline.prepare import prepare
from input_pipeline.prepared_files import Example
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import OPTIONS, data_config, read_split, write_slice


@pytest.fixture
def data(source, tmp_path, monkeypatch):
    """Three training patients of slices 0 to 2 and 7 to 8, one of 1 to 2, in shards of 4."""
    monkeypatch.setattr(builder, "SHARD_SIZE", 4)
    for index in (1, 2):
        write_slice(source, "val", "clean", "LIDC-IDRI-0007", index)
    prepare("lidc_masks", source, tmp_path / "data", **OPTIONS)
    return data_config(tmp_path / "data", context=1)


def _records(data, split="train"):
    records = read_split(prepared.ensure_prepared(data), split)
    assert len({record["image"].tobytes() for record in records}) == len(records)
    return records


def _neighbour(records, index, offset):
    """The record `offset` slices above, or the last one of the stretch on the way there."""
    while offset:
        this, towards = records[index], index + np.sign(offset)
        if not 0 <= towards < len(records):
            break
        other = records[towards]
        apart = other["slice_index"] - this["slice_index"]
        if other["patient"] != this["patient"] or apart != towards - index:
            break
        index, offset = towards, offset - np.sign(offset)
    return records[index]


def _found(*slices):
    return [Example(patient, index, "clean", "", (0, 0, 0)) for patient, index in slices]


def test_neighbours_stay_in_their_stretch_and_ends_are_repeated():
    found = _found(*[("a", i) for i in (3, 4, 5, 7)], ("b", 8), ("b", 9))
    everything = np.arange(6)
    np.testing.assert_array_equal(
        with_neighbours(found, everything, 1),
        [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [4, 5, 5]],
    )
    np.testing.assert_array_equal(
        with_neighbours(found, np.array([1, 5]), 2), [[0, 0, 1, 2, 2], [4, 4, 5, 5, 5]]
    )
    np.testing.assert_array_equal(with_neighbours(found, everything, 0), everything[:, None])
    with pytest.raises(DataError, match=r"config\.data\.context is -1: use 0, or"):
        with_neighbours(found, everything, -1)


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("cache", ["none", "host"])
def test_training_sees_each_slice_between_its_neighbours(data, context, cache):
    data.update({"context": context, "cache": cache})
    pipeline.check_training(data)
    records = _records(data)
    seen = set()
    for batch in pipeline.train_batches(data, 0, 6):
        assert batch["source"].shape == (4, 16, 16, 2 * context + 1)
        assert batch["target"].shape == (4, 16, 16, 1)
        assert batch["source"].dtype == batch["target"].dtype == np.uint8
        assert batch["index"].shape == (4,)
        for source, target, index in zip(*batch.values(), strict=True):
            np.testing.assert_array_equal(target, records[index]["image"])
            for channel, offset in enumerate(range(-context, context + 1)):
                expected = _neighbour(records, index, offset)["mask"][..., 0]
                np.testing.assert_array_equal(source[..., channel], expected)
            seen.add(index)
    assert len(seen) == len(records)


def test_channels_are_cropped_and_mirrored_alike(data):
    data.update({"context": 1, "source": "image", "patch_size": 10, "flip": True})
    records = _records(data)
    places, mirrored = set(), 0
    for batch in pipeline.train_batches(data, 0, 6):
        assert batch["source"].shape == (4, 10, 10, 3)
        for source, target, index in zip(*batch.values(), strict=True):
            images = [_neighbour(records, index, offset)["image"] for offset in (-1, 0, 1)]
            expected = np.concatenate(images, -1)
            found = [
                (y, x, flip)
                for y, x, flip in itertools.product(range(7), range(7), (1, -1))
                if np.array_equal(expected[y : y + 10, x : x + 10][:, ::flip], source)
            ]
            ((y, x, flip),) = found
            crop = records[index]["image"][y : y + 10, x : x + 10][:, ::flip]
            np.testing.assert_array_equal(target, crop)
            places.add((y, x))
            mirrored += flip < 0
    assert len(places) > 8 and 4 <= mirrored <= 20


def test_resized_channels_are_those_of_plain_batches(data):
    data.update({"flip": True, "load_size": 20})
    ours = list(pipeline.train_batches(data, 0, 6))
    data.context = 0
    for batch, plain in zip(ours, pipeline.train_batches(data, 0, 6), strict=True):
        np.testing.assert_array_equal(batch["index"], plain["index"])
        np.testing.assert_array_equal(batch["target"], plain["target"])
        np.testing.assert_array_equal(batch["source"][..., 1:2], plain["source"])


def test_slices_that_training_leaves_out_are_neighbours_still(data):
    records = _records(data)
    labels = [example.label for example in prepared.examples(data, "train")]
    assert set(labels) == {"clean", "with_nodules"}
    table = [
        example._replace(label="empty" if example.slice_index == 1 else "clean")
        for example in prepared.examples(data, "train")
    ]
    kept = np.array([i for i, example in enumerate(table) if example.label != "empty"])
    around = with_neighbours(table, kept, 1)
    for index, (below, middle, above) in zip(kept, around, strict=True):
        assert middle == index
        for place, offset in ((below, -1), (above, 1)):
            expected = _neighbour(records, index, offset)
            assert records[place]["file_name"] == expected["file_name"]
    left_out = {i for i, example in enumerate(table) if example.label == "empty"}
    assert left_out and left_out <= set(around.ravel().tolist())


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_counts_the_middle_slice(data, hosts):
    for split in ("train", "validation", "test"):
        records = _records(data, split)
        per_host = [list(pipeline.eval_batches(data, split, host, hosts)) for host in range(hosts)]
        batches = [
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*per_host, strict=True)
        ]
        whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        count = len(records)
        assert pipeline.num_evaluation_examples(data, split) == count
        np.testing.assert_array_equal(whole["index"][:count], np.arange(count))
        assert (whole["index"][count:] == -1).all()
        for index in range(count):
            np.testing.assert_array_equal(whole["target"][index], records[index]["image"])
            for channel in range(3):
                expected = _neighbour(records, index, channel - 1)["mask"][..., 0]
                np.testing.assert_array_equal(whole["source"][index, ..., channel], expected)


def test_chosen_examples_have_their_neighbours(data):
    whole = [x for batch in pipeline.eval_batches(data, "train") for x in batch["source"]]
    (batch,) = pipeline.eval_batches(data, "train", indices=[7, 3, 14])
    assert batch["index"].tolist() == [7, 3, 14, -1]
    np.testing.assert_array_equal(batch["source"][:3], [whole[i] for i in (7, 3, 14)])


def test_context_is_of_2d_and_no_negative_number(data):
    data.depth = 2
    with pytest.raises(DataError, match=r"context is of 2D: set it or config\.data\.depth to 0"):
        pipeline.check_training(data)
    data.update({"depth": 0, "context": -1})
    with pytest.raises(DataError, match=r"config\.data\.context is -1: use 0, or"):
        pipeline.check_training(data)
