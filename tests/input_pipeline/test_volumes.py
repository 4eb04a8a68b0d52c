"""Batches of slices and of runs of slices, in HU, from the embedded abdominal CT."""

import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.liver import get_config
from input_pipeline import pipeline, prepared
from jax_pix2pix.errors import DataError

DEPTH = 5


@pytest.fixture
def data(sample_data_dir):
    data = get_config("quickstart").data
    data.data_dir = str(sample_data_dir)
    data.update({"image_size": 32, "load_size": 0})
    data.update({"test_fraction": 0.15, "validation_fraction": 0.1})  # 8 slices, and 4 around them
    prepared.ensure_prepared(data)
    return data


def _records(data, split):
    source = tfds.builder_from_directory(prepared.ensure_prepared(data)).as_data_source(split)
    images, masks = zip(*((x["image"], x["mask"]) for x in source), strict=True)
    return np.stack(images), np.stack(masks)


def test_slices_are_hounsfield_units_with_their_spacing(data):
    images, masks = _records(data, "train")
    (batch,) = itertools.islice(pipeline.train_batches(data, 0, 1), 1)
    assert batch["source"].dtype == np.int16 and batch["target"].dtype == np.uint8
    np.testing.assert_array_equal(batch["source"], images[batch["index"]])
    np.testing.assert_array_equal(batch["target"], masks[batch["index"]])
    assert images.min() < -900 and images.max() > 300 and set(np.unique(masks)) == {0, 1}
    # Planes of 122 x 101 voxels of 3 mm, padded to 122 and stored as 32.
    for example in prepared.examples(data, "train"):
        assert example.spacing_mm == pytest.approx((3, 3 * 122 / 32, 3 * 122 / 32), rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_empty_slices_is_kept(data, share):
    data.empty_slices = share
    found = prepared.examples(data, "train")
    empty = {i for i, example in enumerate(found) if example.label == "empty"}
    assert len(empty) == 9
    _, masks = _records(data, "train")
    assert empty == {i for i, mask in enumerate(masks) if not mask.any()}
    count = pipeline.num_training_examples(data)
    assert count == len(found) - {0.0: 9, 1.0: 0}.get(share, len(found) - count)
    assert len(found) - 9 <= count <= len(found)
    data.batch_size = count
    (batch,) = pipeline.train_batches(data, 0, 1)
    kept = set(batch["index"].tolist())
    assert len(kept) == count and set(range(len(found))) - empty <= kept
    assert 0 < len(kept & empty) < 9 or share != 0.5


def test_evaluation_sees_every_slice_whatever_training_keeps(data):
    data.empty_slices = 0.0
    index = np.concatenate([x["index"] for x in pipeline.eval_batches(data, "train")])
    assert sorted(index[index >= 0]) == list(range(len(prepared.examples(data, "train"))))


@pytest.mark.parametrize("cache", ["none", "host"])
def test_runs_of_slices_are_crops_of_one_patient(data, cache):
    data.update({"depth": DEPTH, "patch_size": 20, "empty_slices": 1.0, "cache": cache})
    images, masks = _records(data, "train")
    # The test block lies in their middle: 19 slices below it and 20 above.
    assert len(images) == 39 and pipeline.num_training_examples(data) == 15 + 16
    starts, places = set(), set()
    for batch in pipeline.train_batches(data, 0, 20):
        assert batch["source"].shape == (4, DEPTH, 20, 20, 1)
        for index, source, target in zip(
            batch["index"], batch["source"], batch["target"], strict=True
        ):
            np.testing.assert_array_equal(np.diff(index), 1)
            assert not index[0] < 19 <= index[-1]
            found = [
                (y, x)
                for y in range(13)
                for x in range(13)
                if np.array_equal(images[index, y : y + 20, x : x + 20], source)
            ]
            assert len(found) == 1  # one crop for all slices, and for the mask
            ((y, x),) = found
            np.testing.assert_array_equal(masks[index, y : y + 20, x : x + 20], target)
            starts.add(index[0])
            places.add((y, x))
    assert len(starts) > 15 and len(places) > 40


@pytest.mark.parametrize(("split", "runs"), [("train", 4 + 4), ("validation", 1 + 1), ("test", 2)])
def test_evaluation_in_3d_counts_each_slice_once(data, split, runs):
    """Runs of 5 cover 19, 20 and 8 slices; the last ones overlap. 2 slices are less than a run."""
    data.update({"depth": DEPTH, "empty_slices": 1.0, "batch_size": 3})
    images, _ = _records(data, split)
    counted = []
    for batch in pipeline.eval_batches(data, split):
        assert batch["source"].shape == (3, DEPTH, 32, 32, 1)
        for place in np.argwhere(batch["index"] >= 0):
            index = batch["index"][tuple(place)]
            counted.append(index)
            np.testing.assert_array_equal(batch["source"][tuple(place)], images[index])
    assert sorted(counted) == list(range(len(images)))
    assert pipeline.num_evaluation_examples(data, split) == runs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"empty_slices": 1.5}, "empty_slices is 1.5"),
        ({"empty_slices": 0.5, "depth": 4}, "empty_slices must be 1 with depth"),
        ({"patch_size": 33}, "patch_size is 33: use 0 to 32"),
        ({"patch_size": -16}, "patch_size is -16"),
        ({"depth": -3}, "depth is -3"),
        (
            {"depth": 2, "empty_slices": 1.0, "split_by": "slice"},
            "split_by is slice, which leaves no runs",
        ),
        ({"source": "foo"}, 'source is "foo": use image or mask'),
        ({"source_type": "uint8"}, "source_type .* uint8 and 1, .* is int16 with 1"),
    ],
)
def test_a_bad_field_is_named(data, fields, message):
    data.update(fields)
    prepared.ensure_prepared(data)
    with pytest.raises(DataError, match=message):
        pipeline.check_training(data)
