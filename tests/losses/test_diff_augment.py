"""DiffAugment: the effect of each change on source and image, in 2D and 3D."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses.diff_augment import diff_augment

SHAPES = [(16, 24), (8, 16, 16)]  # shifts up to an eighth: 2 and 3; 1, 2 and 2 pixels
KEY = jax.random.key(0)


def _pair(spatial, n):
    """n copies of a source with 2 channels and an image with 1, in (-1, 1)."""
    rng = np.random.default_rng(0)
    pair = (rng.uniform(-0.9, 0.9, (*spatial, c)).astype(np.float32) for c in (2, 1))
    return [np.tile(x, (n, *[1] * x.ndim)) for x in pair]


def _shifted(x, shift):
    """x [*spatial, c] moved by `shift` pixels towards higher indices; -1 fills the gap."""
    moved = np.full_like(x, -1)
    to = tuple(slice(max(s, 0), m + min(s, 0)) for s, m in zip(shift, x.shape, strict=False))
    of = tuple(slice(max(-s, 0), m - max(s, 0)) for s, m in zip(shift, x.shape, strict=False))
    moved[to] = x[of]
    return moved


def _shifts(spatial):
    return list(itertools.product(*[range(-(side // 8), side // 8 + 1) for side in spatial]))


@pytest.mark.parametrize("spatial", SHAPES)
def test_translation_shifts_source_and_image_alike_by_every_shift(spatial):
    source, image = _pair(spatial, 600)
    out = jax.device_get(jax.jit(diff_augment("translation"))(KEY, source, image))
    assert [x.shape for x in out] == [source.shape, image.shape]
    counts = dict.fromkeys(_shifts(spatial), 0)
    expected = {shift: [_shifted(x[0], shift) for x in (source, image)] for shift in counts}
    for moved_source, moved_image in zip(*out, strict=True):
        (shift,) = (s for s, e in expected.items() if np.array_equal(e[1], moved_image))
        np.testing.assert_array_equal(moved_source, expected[shift][0])
        counts[shift] += 1
    mean = 600 / len(counts)
    assert min(counts.values()) > 0.2 * mean and max(counts.values()) < 2.5 * mean


@pytest.mark.parametrize("spatial", SHAPES)
def test_cutout_empties_one_box_of_half_of_each_side(spatial):
    source, image = _pair(spatial, 200)
    out = jax.device_get(jax.jit(diff_augment("cutout"))(KEY, source, image))
    boxes = set()
    for cut_source, cut_image in zip(*out, strict=True):
        box = cut_image[..., 0] == -1
        bounds = [(x.min(), x.max() + 1) for x in np.nonzero(box)]
        for (first, stop), side in zip(bounds, spatial, strict=True):
            assert side // 4 <= stop - first <= side // 2
            assert stop - first == side // 2 or first == 0 or stop == side
        inside = np.zeros(spatial, bool)
        inside[tuple(slice(*bound) for bound in bounds)] = True
        np.testing.assert_array_equal(box, inside)
        np.testing.assert_array_equal(cut_image, np.where(inside[..., None], -1, image[0]))
        np.testing.assert_array_equal(cut_source, np.where(inside[..., None], -1, source[0]))
        boxes.add(tuple(bounds))
    assert len(boxes) > 100


@pytest.mark.parametrize("spatial", SHAPES)
def test_color_changes_brightness_and_contrast_of_the_image_alone(spatial):
    source, image = _pair(spatial, 200)
    new_source, new_image = jax.device_get(jax.jit(diff_augment("color"))(KEY, source, image))
    np.testing.assert_array_equal(new_source, source)
    mean = image[0].mean()
    brightness = new_image.mean(tuple(range(1, new_image.ndim))) - mean
    contrast = new_image.std(tuple(range(1, new_image.ndim))) / image[0].std()
    for x, b, c in zip(new_image, brightness, contrast, strict=True):
        np.testing.assert_allclose(x, (image[0] - mean) * c + mean + b, atol=1e-5)
    assert -0.5 <= brightness.min() < -0.4 and 0.4 < brightness.max() <= 0.5
    assert 0.5 <= contrast.min() < 0.6 and 1.4 < contrast.max() <= 1.5
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.3


def test_one_key_changes_real_and_fake_alike_and_two_keys_do_not():
    augment = diff_augment("color,translation,cutout")
    source, image = _pair((16, 24), 4)
    first, again = augment(KEY, source, image), augment(KEY, source, 0.5 * image)
    np.testing.assert_array_equal(first[0], again[0])
    empty = [np.asarray(x[1]) == -1 for x in (first, again)]
    np.testing.assert_array_equal(*empty)
    other, _ = augment(jax.random.key(1), source, image)
    assert bool((other != first[0]).any())
    examples = np.asarray(first[0])
    for a, b in itertools.combinations(examples, 2):
        assert (a != b).any()


def test_changes_follow_each_other_with_random_numbers_of_their_own():
    source, image = _pair((16, 24), 4)
    once = diff_augment("translation")(KEY, source, image)[1]
    twice = diff_augment("translation,translation")(KEY, source, image)[1]
    found = [
        [s for s in _shifts((16, 24)) if np.array_equal(_shifted(x, s), y)]
        for x, y in zip(np.asarray(once), np.asarray(twice), strict=True)
    ]
    assert all(found) and any(
        not np.array_equal(_shifted(x, shifts[0]), z)
        for x, shifts, z in zip(image, found, np.asarray(once), strict=True)
    )


@pytest.mark.parametrize("spatial", SHAPES)
def test_gradients_pass_to_the_pixels_that_d_sees(float64, spatial):
    source, image = (np.asarray(x, np.float64) for x in _pair(spatial, 3))
    weights = np.random.default_rng(1).uniform(1, 2, image.shape)

    def gradient(policy):
        augment = diff_augment(policy)

        def seen(image):
            return (weights * augment(KEY, source, image)[1]).sum()

        return np.asarray(jax.jit(jax.grad(seen))(image)), augment(KEY, source, image)[1]

    by_image, cut = gradient("cutout")
    np.testing.assert_array_equal(by_image, np.where(cut == -1, 0, weights))
    by_image, moved = gradient("translation")
    for x, y, w, g in zip(image, np.asarray(moved), weights, by_image, strict=True):
        (shift,) = (s for s in _shifts(spatial) if np.array_equal(_shifted(x, s), y))
        visible = _shifted(np.ones_like(x), shift)  # -1 where nothing is seen
        back = _shifted(np.where(visible == 1, w, 0), [-s for s in shift])
        np.testing.assert_array_equal(g, np.maximum(back, 0))
    # Brightness b, contrast c: d/dx sum w (c (x + b - m) + m) = c w + (1 - c) mean(w).
    by_image, _ = gradient("color")
    pixels = tuple(range(1, image.ndim))
    contrast = by_image.std(pixels) / weights.std(pixels)
    mean = weights.mean(pixels)
    for w, g, c, m in zip(weights, by_image, contrast, mean, strict=True):
        np.testing.assert_allclose(g, c * w + (1 - c) * m, atol=1e-12)


def test_types_are_kept():
    for dtype in ("float32", "bfloat16"):
        pair = [jnp.asarray(x, dtype) for x in _pair((16, 16), 2)]
        out = jax.eval_shape(diff_augment("color,translation,cutout"), KEY, *pair)
        assert {x.dtype for x in out} == {jnp.dtype(dtype)}


def test_no_policy_is_none_and_an_unknown_one_is_named():
    assert diff_augment("") is None
    with pytest.raises(ConfigError, match=r'config\.diff_augment has "flip": use color, transla'):
        diff_augment("color,flip")
