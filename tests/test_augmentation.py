"""Random changes of training pairs: each by a closed form or SciPy, and alike on all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import ndimage

from configs import ct_pyramid_2d, lidc_mask2ct, liver, mri2ct, xray_lungs
from jax_pix2pix.augmentation import augmentation, blurred, sampled
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.runs.workdir import build_system, example_batch
from jax_pix2pix.sharding import make_mesh

ALL = {
    "rotation_degrees": 20.0, "scale": 0.2, "gamma": 0.5, "contrast": 0.3, "brightness": 0.2,
    "noise": 0.1, "blur": 1.0,
}  # fmt: skip


def _made(module=xray_lungs, **fields):
    config = module.get_config()
    config.augment.update(fields)
    return augmentation(config)


def _pairs(count=64, side=24):
    """X-rays of which the mask shows the pixels of 200 and more."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(count, side, side)), (0, 3, 3))
    source = (smooth > 0) * 200 + rng.integers(0, 10, smooth.shape)
    batch = {"source": source, "target": source >= 200, "index": np.arange(count)[:, None]}
    return {name: x[..., None].astype(np.uint8) if x.ndim == 3 else x for name, x in batch.items()}


def test_a_quarter_turn_is_exact():
    image = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 2)).astype(np.uint8)
    for linear in (False, True):
        turned = sampled(image, jnp.pi / 2, 1.0, 0, linear)
        np.testing.assert_allclose(turned, np.rot90(image, -1, (1, 2)), atol=1e-3)
        np.testing.assert_array_equal(sampled(image, 0.0, 1.0, 0, linear), image)


def test_turned_and_enlarged_as_scipy_does():
    image = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(20, 26)), 2)
    angle, zoom, fill = 0.3, 1.2, -7.0
    inverse = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    middle = (np.array(image.shape) - 1) / 2
    expected = ndimage.affine_transform(
        image, inverse, middle - inverse @ middle, order=1, mode="grid-constant", cval=fill
    )
    found = sampled(image[..., None].astype(np.float32), angle, zoom, fill, True)[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected == fill).any()


def test_both_images_of_a_pair_move_alike_and_classes_stay_classes():
    batch = _pairs()
    moved = jax.jit(_made(rotation_degrees=30.0, scale=0.3, share=1.0).move)(
        jax.random.key(0), batch
    )
    source, target = np.asarray(moved["source"]), np.asarray(moved["target"])
    assert source.dtype == np.float32 and target.dtype == np.uint8
    assert set(np.unique(target)) == {0, 1}
    inside = (source < 10) | (source >= 200)  # not between a dark and a bright pixel
    assert inside.mean() > 0.6
    np.testing.assert_array_equal((source >= 200)[inside], target[inside] == 1)
    changed = (source != batch["source"]).reshape(len(source), -1).any(1)
    assert changed.all()
    np.testing.assert_array_equal(moved["index"], batch["index"])


def test_a_share_of_the_examples_changes_by_at_most_as_much():
    batch = _pairs(512, 9)
    made = _made(rotation_degrees=20.0, share=0.25)
    moved = made.move(jax.random.key(3), batch)
    changed = (moved["source"] != batch["source"]).reshape(512, -1).any(1).mean()
    assert 0.19 < changed < 0.31
    source = jnp.zeros((4096, 2, 2, 1))
    brighter = _made(brightness=0.2, share=0.5).recolour(jax.random.key(0), source)[:, 0, 0, 0]
    drawn = np.asarray(brighter[brighter != 0])
    assert 0.46 < len(drawn) / 4096 < 0.54
    assert drawn.min() < -0.19 and drawn.max() > 0.19 and abs(drawn).max() <= 0.2
    assert abs(drawn.mean()) < 0.01


def test_intensities_by_closed_forms():
    key, x = jax.random.key(1), jnp.linspace(-1, 1, 101).reshape(1, 101, 1, 1)
    y = _made(gamma=1.0, share=1.0).recolour(key, x)[0, :, 0, 0]
    exponents = jnp.log((y[1:-1] + 1) / 2) / jnp.log((x[0, 1:-1, 0, 0] + 1) / 2)
    assert 0.5 <= exponents[0] <= 2 and exponents[0] != 1
    np.testing.assert_allclose(exponents, exponents[0], rtol=1e-4)
    assert (y[0], y[-1]) == (-1, 1)

    x = x / 4 + 0.1
    y = _made(contrast=1.0, share=1.0).recolour(key, x)
    factors = (y - 0.1) / jnp.where(x == 0.1, 1, x - 0.1)
    np.testing.assert_allclose(y.mean(), 0.1, atol=1e-6)
    np.testing.assert_allclose(factors[0, :50], factors[0, 0, 0, 0], rtol=1e-4)

    noisy = _made(noise=0.2, share=1.0).recolour(key, jnp.zeros((64, 32, 32, 1)))
    deviations = np.asarray(noisy.std((1, 2, 3)))
    assert deviations.max() < 0.21 and 0.08 < deviations.mean() < 0.12
    assert np.asarray(jnp.clip(noisy, -1, 1) == noisy).all()


def test_blurred_as_scipy_does():
    images = np.random.default_rng(0).normal(size=(3, 2, 16, 12, 1))
    sigmas = np.array([0.0, 0.8, 1.5])
    found = blurred(jnp.asarray(images, jnp.float32), jnp.asarray(sigmas), 1.5)
    np.testing.assert_array_equal(found[0], images[0].astype(np.float32))
    for number in (1, 2):
        expected = ndimage.gaussian_filter(
            images[number], (0, sigmas[number], sigmas[number], 0), mode="nearest", radius=5
        )
        np.testing.assert_allclose(found[number], expected, atol=1e-5)


def test_the_numbers_follow_from_the_key_alone_on_any_number_of_devices():
    made, batch = _made(**ALL, share=0.5), _pairs(16)

    def change(key, batch):
        moved = made.move(key, batch)
        source = made.recolour(jax.random.fold_in(key, 1), moved["source"] / 100 - 1)
        return source, moved["target"]

    alone = jax.jit(change)(jax.random.key(7), batch)
    over = NamedSharding(make_mesh(1, 16), PartitionSpec("data"))
    assert over.num_devices == 8
    spread = jax.jit(change)(jax.random.key(7), jax.device_put(batch, over))
    for a, b in zip(alone, spread, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    other = jax.jit(change)(jax.random.key(8), batch)
    assert not np.allclose(alone[0], other[0])


@pytest.mark.parametrize("module", [xray_lungs, liver, mri2ct])
def test_training_changes_what_evaluation_leaves(module):
    config = module.get_config()
    config.steps_per_epoch = 1
    config.augment.update(ALL | {"share": 1.0})
    system = build_system(config)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 2 if name == "target" else 200, x.shape).astype(x.dtype)
        for name, x in example_batch(config, 32).items()
    }
    config.augment.update(dict.fromkeys(ALL, 0.0))
    plain = build_system(config)
    assert plain.augmentation is None
    for name, ours, theirs in zip(
        ("source", "target"), system.normalise(batch), plain.normalise(batch), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    source, target = system.normalise(batch, jax.random.key(0))
    kept_source, kept_target = plain.normalise(batch, jax.random.key(0))
    assert source.dtype == kept_source.dtype and target.dtype == kept_target.dtype
    assert (source != kept_source).mean() > 0.5 and (target != kept_target).any()
    assert abs(source).max() <= 1
    if module is not mri2ct:
        assert set(np.unique(target)) <= set(np.unique(kept_target))


def test_misfits_are_named():
    with pytest.raises(ConfigError, match=r"config.augment.noise=0.1: the source is a mask"):
        _made(lidc_mask2ct, noise=0.1)
    assert _made(lidc_mask2ct, rotation_degrees=5.0).labels == ("source",)
    config = xray_lungs.get_config()
    config.augment.shear = 1.0
    with pytest.raises(ConfigError, match=r"config.augment has not the fields blur, brightness"):
        augmentation(config)
    config = ct_pyramid_2d.get_config()
    config.augment.rotation_degrees = 5.0
    with pytest.raises(ConfigError, match=r"config.augment: a pyramid"):
        build_system(config)
