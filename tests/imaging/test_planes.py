"""Planes as stored, and the way back: PyTorch and SciPy resize independently."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from jax_pix2pix.imaging import planes

SHAPES = [(50, 50), (50, 38), (31, 50), (49, 50), (12, 9)]  # larger and smaller than SIZE
SIZE = 16


def padded(plane, value):
    """Centred in a square; the odd pixel below or to the right."""
    missing = max(plane.shape) - np.array(plane.shape)
    pads = [(count // 2, count - count // 2) for count in missing]
    return np.pad(plane, pads, constant_values=value)


def resized(plane, size):
    """By PyTorch, antialiased, in float64."""
    plane = torch.from_numpy(plane.astype(np.float64))[None, None]
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return torch.nn.functional.interpolate(plane, (size, size), **how)[0, 0].numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stored_image_is_padded_with_air_and_resized(shape):
    hu = np.random.default_rng(0).integers(-1024, 3072, shape).astype(np.int16)
    stored = planes.stored_image(hu, SIZE)
    assert stored.dtype == np.int16
    expected = resized(padded(hu, -1024), SIZE)
    assert np.abs(stored - expected).max() <= 0.5 + 1e-3


def test_a_stored_image_is_padded_with_what_is_beyond_it():
    values = np.random.default_rng(0).integers(0, 65536, (50, 38)).astype(np.uint16)
    stored = planes.stored_image(values, SIZE, beyond=7)
    assert stored.dtype == np.uint16
    assert np.abs(stored - resized(padded(values, 7), SIZE)).max() <= 0.5 + 5e-3


def test_a_stored_image_of_its_own_size_is_exact():
    hu = np.random.default_rng(0).integers(-32768, 32768, (SIZE, SIZE)).astype(np.int16)
    np.testing.assert_array_equal(planes.stored_image(hu, SIZE), hu)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stored_labels_are_those_at_the_pixel_centres(shape):
    labels = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    side = max(shape)
    centres = (np.arange(SIZE) + 0.5) * side / SIZE - 0.5
    grid = np.meshgrid(centres, centres, indexing="ij")
    expected = ndimage.map_coordinates(padded(labels, 0), grid, order=0, mode="nearest")
    np.testing.assert_array_equal(planes.stored_labels(labels, SIZE), expected, strict=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_prediction_is_resized_and_cropped(shape):
    prediction = np.random.default_rng(0).random((SIZE, SIZE))
    back = planes.native(prediction, shape)
    assert back.shape == shape and back.dtype == np.float32
    marks = padded(np.ones(shape), 0) > 0
    expected = resized(prediction, max(shape))[marks].reshape(shape)
    np.testing.assert_allclose(back, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(512, 512), (512, 400), (301, 512), (120, 90)], ids=str)
def test_nothing_moves_on_the_way_there_and_back(shape):
    rows, columns = np.indices(shape)
    place = 0.4 * shape[0], 0.6 * shape[1]
    distance = np.hypot(rows - place[0], columns - place[1])
    blob = np.rint(30000 * np.exp(-((distance / 8) ** 2) / 2)).astype(np.int16)
    above_air = np.maximum(planes.stored_image(blob, 160), 0)
    centre = ndimage.center_of_mass(planes.native(above_air, shape))
    np.testing.assert_allclose(centre, place, atol=0.01)
    disc = (distance < 0.3 * min(shape)).astype(np.uint8)
    centre = ndimage.center_of_mass(planes.native(planes.stored_labels(disc, 160), shape))
    np.testing.assert_allclose(centre, place, atol=0.2)  # pixels of 3.2, to nearest


@pytest.mark.parametrize(("shape", "side"), [((320, 320), 320), ((320, 200), 320), ((99, 80), 99)])
def test_spacing_grows_as_pixels_do(shape, side):
    between, rows, columns = planes.stored_spacing_mm((5, 0.7, 0.8), shape, 160)
    assert between == 5
    assert (rows, columns) == pytest.approx((0.7 * side / 160, 0.8 * side / 160))


@pytest.mark.parametrize(
    ("plane", "axes"), [("axial", "LPS"), ("coronal", "LIP"), ("sagittal", "PIL")]
)
def test_a_plane_is_cut_as_simpleitk_turns_a_volume(plane, axes):
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)  # from the feet, the front, the right
    slices = planes.cut(volume, plane)
    turned = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.GetImageFromArray(volume), axes))
    np.testing.assert_array_equal(slices, turned)
    np.testing.assert_array_equal(planes.to_axial(slices, plane), volume)
