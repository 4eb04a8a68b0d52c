"""The task of segmentation: labels to targets, masks to scores, summaries by image and volume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score

from configs.liver import get_config as liver
from configs.xray_lungs import get_config as xray_lungs
from jax_pix2pix.sharding import batch_sharding, make_mesh, replicated, to_global
from jax_pix2pix.tasks.segmentation import segmentation

LABELS = np.random.default_rng(0).integers(0, 3, (8, 16, 16, 1)).astype(np.uint8)


def _binary(config=None):
    return segmentation(config or liver(), classes=1, probabilities=lambda fake: fake)


def _tumour():
    return segmentation(liver("tumour"), classes=3, probabilities=lambda fake: fake)


def test_targets_of_one_class_and_of_several():
    one = _binary().network_target(jnp.asarray(LABELS), jnp.float32)
    np.testing.assert_array_equal(one, LABELS > 0)
    several = _tumour().network_target(jnp.asarray(LABELS), jnp.float32)
    assert several.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(several.argmax(-1), LABELS[..., 0])
    np.testing.assert_array_equal(several.sum(-1), 1)


def test_a_perfect_output_scores_one_and_each_region_is_scored():
    for task in (_binary(), _tumour()):
        target = task.network_target(jnp.asarray(LABELS), jnp.float32)
        summary = task.summarise(jax.device_get(task.metrics(target, target)), ["a"] * 8)
        assert summary["dice"] == 1 and set(summary) <= set(task.protocols)
        assert all(summary[f"dice_{region}"] == 1 for region in task.regions)


@pytest.mark.parametrize("per", ["image", "volume"])
def test_dice_by_image_and_by_volume_is_scikit_learns(per):
    config = liver()
    config.evaluation.per = per
    config.evaluation.threshold = 0.3
    task = _binary(config)
    fake = np.random.default_rng(1).random(LABELS.shape).astype(np.float32)
    target = task.network_target(jnp.asarray(LABELS), jnp.float32)
    counts = jax.device_get(jax.jit(task.metrics)(fake, target))
    groups = np.array(["b", "a", "b", "b", "a", "a", "b", "c"])
    parts = range(8) if per == "image" else [groups == name for name in "abc"]
    expected = [f1_score((LABELS[part] > 0).ravel(), (fake[part] > 0.3).ravel()) for part in parts]
    summary = task.summarise(counts, groups)
    assert summary["dice"] == summary["dice_liver"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_tumours_are_part_of_the_liver():
    """As LiTS scores: a voxel called tumour counts as liver as well."""
    task = _tumour()
    target = task.network_target(jnp.asarray(LABELS), jnp.float32)
    called_tumour = task.network_target(jnp.asarray(np.where(LABELS, 2, 0)), jnp.float32)
    summary = task.summarise(jax.device_get(task.metrics(called_tumour, target)), range(8))
    assert summary["dice_liver"] == 1 and summary["dice_tumour"] < 0.8


def test_slices_of_3d_examples_are_counted_one_by_one():
    task = _binary()
    target = task.network_target(jnp.asarray(LABELS), jnp.float32)
    fake = jnp.asarray(np.random.default_rng(1).random(LABELS.shape), jnp.float32)
    flat = task.metrics(fake, target)
    blocks = task.metrics(fake.reshape(2, 4, 16, 16, 1), target.reshape(2, 4, 16, 16, 1))
    for name, values in blocks.items():
        np.testing.assert_array_equal(values.ravel(), flat[name])


def test_sums_are_exact_over_eight_devices():
    task = _binary()
    fake = np.random.default_rng(1).random(LABELS.shape).astype(np.float32)
    target = np.asarray(task.network_target(jnp.asarray(LABELS), jnp.float32))
    mesh = make_mesh(fsdp=2, batch_size=8)
    batch = to_global({"fake": fake, "target": target}, mesh)
    assert batch["fake"].sharding == batch_sharding(mesh)
    sharded = jax.jit(task.metrics, out_shardings=replicated(mesh))(batch["fake"], batch["target"])
    for name, values in task.metrics(fake, target).items():
        np.testing.assert_array_equal(sharded[name], values)


def test_undefined_scores_are_left_out():
    task = segmentation(xray_lungs(), classes=1, probabilities=lambda fake: fake)
    empty = np.zeros((2, 8, 8, 1), np.float32)
    summary = task.summarise(jax.device_get(task.metrics(empty, empty)), range(2))
    assert summary["dice"] == summary["iou_lungs"] == 1 and "sensitivity_lungs" not in summary


def test_the_row_of_pictures_shows_both_outlines():
    task = _binary()
    target = np.zeros((16, 16, 1), np.float32)
    target[4:12, 4:12] = 1
    fake = np.roll(target, 2, axis=1)
    source, shown, outlines = task.row(np.full((16, 16, 1), -1.0), fake, target)
    np.testing.assert_array_equal(shown, 2 * fake[..., 0] - 1)
    colours = {tuple(pixel) for pixel in outlines.reshape(-1, 3)}
    assert colours == {(-1, -1, -1), (1, -1, -1), (-1, 1, -1), (1, 1, -1)}
    # 8 of 16 pixels a side, drawn 20 times as large: green begins at a quarter.
    green = np.argwhere((outlines[..., 1] == 1) & (outlines[..., 0] < 0))
    assert green[:, 1].min() == 80 and source.shape == (16, 16)
