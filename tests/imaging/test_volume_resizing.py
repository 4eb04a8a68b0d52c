"""Resizing of volumes, against PyTorch, SimpleITK, Pillow and SciPy."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy import ndimage

from input_pipeline import samples
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.volume_file import read_ct

CHEST = Path(samples.__file__).parent / "chest_volumes" / "subset0" / "TS-CTA-0001.mhd"


def volume(shape, seed=0):
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("new", [(7, 9, 11), (13, 9, 30), (7, 20, 21)])
def test_enlarging_is_pytorchs_with_aligned_corners(new):
    values = volume((7, 9, 11))
    resized = volume_resizing.linear(values, volume_resizing.aligned_corners(values.shape, new))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values.astype(np.float64))[None, None],
        new,
        mode="trilinear",
        align_corners=True,
    )[0, 0].numpy()
    assert resized.dtype == np.float32 and resized.shape == new
    np.testing.assert_allclose(resized, expected, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [(100, 30), (64, 63), (31, 4)])
def test_shrinking_is_pillows_between_the_ends(old, new):
    """Pillow's pixels lie elsewhere; a box puts all but the first and last on the same places."""
    values = volume((2, 2, old))
    resized = volume_resizing.linear(
        values, volume_resizing.aligned_corners((2, 2, old), (2, 2, new))
    )
    step = (old - 1) / (new - 1)
    box = (0.5 + step / 2, 0, old - 0.5 - step / 2, 2)
    for plane, expected in zip(resized, values, strict=True):
        picture = Image.fromarray(expected.astype(np.float32))
        picture = picture.resize((new - 2, 2), Image.Resampling.BILINEAR, box=box)
        np.testing.assert_allclose(plane[:, 1:-1], picture, atol=2e-3)
    flat = volume_resizing.linear(
        np.full((5, 6, old), 7), [np.arange(3), np.arange(6), [0, old - 1]]
    )
    np.testing.assert_allclose(flat, 7, rtol=1e-6)


def test_shrinking_comes_closer_to_the_mean_of_each_voxel():
    """Of a real chest, which without antialiasing keeps the noise of single voxels."""
    values = read_ct(CHEST).values.astype(np.float32)
    positions = volume_resizing.aligned_corners(values.shape, (16, 32, 32))
    steps = [places[1] - places[0] for places in positions]
    share = (np.arange(4) + 0.5) / 4 - 0.5
    fine = [
        (places[:, None] + share * step).ravel()
        for places, step in zip(positions, steps, strict=True)
    ]
    samples = ndimage.map_coordinates(
        values, np.meshgrid(*fine, indexing="ij"), order=1, mode="nearest"
    )
    means = samples.reshape(16, 4, 32, 4, 32, 4).mean(axis=(1, 3, 5))
    plain = ndimage.map_coordinates(values, np.meshgrid(*positions, indexing="ij"), order=1)
    resized = volume_resizing.linear(values, positions)

    def error_hu(x):
        return np.sqrt(((x - means)[1:-1, 1:-1, 1:-1] ** 2).mean())

    assert error_hu(resized) < 0.45 * error_hu(plain)


def test_isotropic_voxels_are_simpleitks():
    values, spacing_mm = volume((6, 10, 9)), (2.0, 0.9, 1.1)
    positions = volume_resizing.isotropic(values.shape, spacing_mm, 0.8)
    resized = volume_resizing.linear(values, positions)
    assert resized.shape == (15, 11, 12)  # 12 / 0.8, 9 / 0.8, 9.9 / 0.8
    image = sitk.GetImageFromArray(values.astype(np.float64))
    image.SetSpacing(spacing_mm[::-1])
    ends_mm = (np.array(values.shape) - 1) * spacing_mm
    origin_mm = (ends_mm - (np.array(resized.shape) - 1) * 0.8) / 2  # one middle for both
    expected = sitk.Resample(
        *(image, resized.shape[::-1], sitk.Transform(), sitk.sitkLinear),
        *(origin_mm[::-1].tolist(), (0.8,) * 3, image.GetDirection(), -1e6),
    )
    expected = sitk.GetArrayFromImage(expected)
    inside = expected > -1e5  # SimpleITK goes on for half a voxel only
    assert inside.mean() > 0.9
    np.testing.assert_allclose(resized[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("new", [(3, 4, 5), (14, 9, 33)])
def test_nearest_keeps_labels(new):
    labels = np.random.default_rng(1).integers(0, 9, (7, 9, 11)).astype(np.uint8)
    positions = volume_resizing.aligned_corners(labels.shape, new)
    resized = volume_resizing.nearest(labels, positions)
    grid = np.meshgrid(*(np.floor(p + 0.5) for p in positions), indexing="ij")
    expected = ndimage.map_coordinates(labels, grid, order=0)
    np.testing.assert_array_equal(resized, expected, strict=True)


@pytest.mark.parametrize("isotropic_mm", [0.0, 2.0])
def test_what_lies_on_the_grid_of_a_whole_volume_comes_back_to_its_place(isotropic_mm):
    """Linear interpolation keeps what is linear, up to the middles of the grid's outer voxels."""
    shape, spacing_mm, new = (10, 41, 38), (5.0, 1.1, 1.1), (6, 9, 12)
    old = [np.arange(length, dtype=float) for length in shape]
    if isotropic_mm:
        old = volume_resizing.isotropic(shape, spacing_mm, isotropic_mm)
    places = [np.linspace(at[0], at[-1], count) for at, count in zip(old, new, strict=True)]

    def plane(d, h, w):
        return 40 * d[:, None, None] - 15 * h[:, None] + 12 * w

    own = [np.arange(length, dtype=float) for length in shape]
    inside = np.ix_(
        *((at >= grid[0]) & (at <= grid[-1]) for at, grid in zip(own, places, strict=True))
    )
    back = volume_resizing.whole_back(plane(*places), shape, spacing_mm, isotropic_mm)
    assert back.shape == shape and back[inside].size > 0.85 * back.size
    np.testing.assert_allclose(back[inside], plane(*own)[inside], atol=1e-2)


def test_labels_of_a_whole_volume_stay_labels():
    labels = np.random.default_rng(0).integers(0, 4, (9, 12, 12)).astype(np.uint8)
    small = volume_resizing.whole(labels, volume_resizing.nearest, (3, 1, 1), 1.5, (5, 7, 7))
    assert small.dtype == np.uint8 and set(np.unique(small)) <= {0, 1, 2, 3}
