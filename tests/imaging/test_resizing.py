"""Resizing without TensorFlow, held against evaluation's in TensorFlow and against PyTorch's."""

import numpy as np
import pytest
import torch

from input_pipeline import augment
from jax_pix2pix.imaging import resizing


@pytest.mark.parametrize("size", [16, 31, 40, 57], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_stored_image_is_resized_as_evaluation_does(dtype, channels, size):
    low, high = (0, 256) if dtype == "uint8" else (-1024, 3072)
    stored = np.random.default_rng(size).integers(low, high, (40, 40, channels), dtype)
    batch = {"source": stored[None], "target": stored[None]}
    methods = {"source": "bilinear", "target": "nearest"}
    expected = augment.resize(batch, methods, size)["source"]
    resized = resizing.evaluation_image(stored, size)
    assert resized.shape == (size, size, channels) and resized.dtype == dtype
    difference = np.abs(resized.astype(int) - np.asarray(expected)[0])
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # half-way between integers


@pytest.mark.parametrize("shape", [(9, 31), (64, 20), (20, 33)], ids=str)
def test_a_plane_is_resized_to_any_shape(shape):
    plane = np.random.default_rng(0).random((20, 33), np.float32)
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    wide = torch.from_numpy(plane.astype(np.float64))[None, None]
    expected = torch.nn.functional.interpolate(wide, shape, **how)[0, 0].numpy()
    resized = resizing.bilinear(plane, shape)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-6)
