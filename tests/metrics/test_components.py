"""Largest components against scikit-image's labels."""

import numpy as np
import pytest
import skimage.measure

from jax_pix2pix.metrics.components import border_note, cleaned, largest_components
from tests.masks import blobs


def _expected(mask, count):
    labels = skimage.measure.label(mask, connectivity=mask.ndim)
    regions = skimage.measure.regionprops(labels)
    first = {r.label: tuple(np.argwhere(labels == r.label)[0]) for r in regions}
    plane = np.array(mask.shape[-2:])

    def last(region):
        box = np.array(region.bbox).reshape(2, -1)[:, -2:]  # rows and columns, ends exclusive
        small = region.area < 0.1 * max(r.area for r in regions)
        return bool((box[0] == 0).any() or (box[1] == plane).any() or small)

    ranked = sorted(regions, key=lambda r: (last(r), -r.area, first[r.label]))
    return np.isin(labels, [region.label for region in ranked[:count]])


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 22)])
def test_components_are_scikit_images(shape, count):
    """Noise has many components of one size, so that their order is tested too."""
    rng = np.random.default_rng(count)
    for mask in (blobs(rng, shape), rng.random(shape) < 0.04, np.asfortranarray(blobs(rng, shape))):
        kept = largest_components(mask, count)
        assert kept.dtype == bool
        np.testing.assert_array_equal(kept, _expected(mask, count))


@pytest.mark.parametrize("ndim", [2, 3])
def test_corners_connect(ndim):
    """Two voxels that touch at a corner are one component, larger than a single one before it."""
    mask = np.zeros((6,) * ndim, bool)
    for place in (0, 3, 4):
        mask[(place,) * ndim] = True
    kept = largest_components(mask, 1)
    assert not kept[(0,) * ndim] and kept[(3,) * ndim] and kept[(4,) * ndim]


def test_empty_mask():
    mask = np.zeros((4, 5, 6), bool)
    np.testing.assert_array_equal(largest_components(mask, 1), mask)


def xray():
    """(labels, lungs, arm): two lungs, the left one with a hole, and an arm that is larger."""
    rows, columns = np.indices((80, 90))
    left = (rows - 40) ** 2 / 30**2 + (columns - 25) ** 2 / 12**2 < 1
    right = (rows - 40) ** 2 / 26**2 + (columns - 55) ** 2 / 11**2 < 1
    arm = columns > 72
    hole = (rows - 40) ** 2 + (columns - 25) ** 2 < 20
    return left * 1 + right * 2 + arm * 1 - hole, left | right, arm


def test_an_arm_at_the_border_is_not_kept_instead_of_a_lung():
    labels, lungs, arm = xray()
    assert arm.sum() > (labels == 1)[:, :40].sum() > (labels == 2).sum()
    np.testing.assert_array_equal(cleaned(labels, 2), labels * lungs)
    np.testing.assert_array_equal(cleaned(labels, 3), labels)
    volume = np.stack([labels] * 4)  # the first and the last slice are no border
    np.testing.assert_array_equal(cleaned(volume, 2), volume * lungs)


def test_a_speck_off_the_border_is_not_kept_instead_of_a_lung():
    labels, _, _ = xray()
    cropped = labels[:, 25:70] > 0  # through the left lung
    cropped[2:4, 2:4] = True
    kept = largest_components(cropped, 2)
    assert not kept[2, 2] and kept[40, 10] and kept[40, 30]


@pytest.mark.parametrize("depth", [0, 5])
def test_holes_are_filled_with_the_class_around_them(depth):
    labels, lungs, _ = xray()
    if depth:
        labels, lungs = (np.stack([x] * depth) for x in (labels, lungs))
        closed = labels.copy()
        closed[0], closed[-1] = labels[0] + (labels[0] == 0) * lungs[0], closed[1]
        closed[-1] = closed[0]  # so that the hole does not lead out
        open_end = cleaned(labels, 0, True)
        np.testing.assert_array_equal(open_end, labels)  # a tunnel is no hole of a volume
        labels = closed
    filled = cleaned(labels.astype(np.uint8), 2, True)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled > 0, lungs)
    np.testing.assert_array_equal(filled[labels > 0], (labels * lungs)[labels > 0])
    assert (filled[lungs & (labels == 0)] == 1).all()


def test_a_mask_at_the_border_is_noted():
    _, lungs, arm = xray()
    assert border_note(lungs) is None and border_note(lungs & False) is None
    # The arm covers its 80 last pixels and 17 less one in the first and in the last row.
    covered = (80 + 2 * 16) / (2 * 80 + 2 * 90 - 4)
    assert f"covers {100 * covered:.0f} % of the picture's border" in border_note(arm)
    volume = np.stack([lungs, arm, arm, lungs])
    assert "33 % of the border of a slice (2 slices so)" in border_note(volume)
    part = np.zeros((10, 10), bool)
    part[0, :7] = True
    assert border_note(part) is None  # 7 of 36
    part[0, 7] = True
    assert "22 %" in border_note(part)
