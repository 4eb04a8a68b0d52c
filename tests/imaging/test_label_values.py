"""Masks of class numbers, of 0 and 255, and with soft edges, by closed forms."""

import nibabel as nib
import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.label_values import foreground, labels_of, numbered
from jax_pix2pix.imaging.volume_file import read_labels

MASK = np.zeros((4, 6), np.uint8)
MASK[1:3, 1:4] = 1


@pytest.mark.parametrize(
    ("values", "soft_edges"),
    [
        (MASK, False),
        (MASK * 255, False),
        (MASK * 7, False),
        (MASK * 2 - MASK * (np.arange(6) > 2), False),  # liver 2 and 1
        (np.where(MASK, 254 - np.arange(6), np.arange(6)), True),
    ],
)
def test_the_foreground(values, soft_edges):
    found = foreground(values.astype(np.uint8), "mask.png", soft_edges)
    np.testing.assert_array_equal(found, MASK > 0, strict=True)
    assert not foreground(MASK * 0, "mask.png").any()


@pytest.mark.parametrize(
    ("values", "soft_edges", "listed"),
    [
        ([0, 127, 255], False, "0, 127, 255"),
        ([0, 1, 255], False, "0, 1, 255"),
        ([1, 2], True, "1, 2"),  # which is the background?
        ([127, 128], True, "127, 128"),
        ([0, 100, 200], True, "0, 100, 200"),
        ([0, 85, 170, 255], True, "0, 85, 170, 255"),  # four classes
        ([0, 1, 2, 3, 255], True, "0, 1, 2, 3, 255"),  # with a label to ignore
        (range(0, 256, 5), False, "0, 5, 10, 15, 20, 25, 30, 35, ..."),
    ],
)
def test_refuses_what_two_classes_cannot_be(values, soft_edges, listed):
    with pytest.raises(DataError, match=f"a.nii holds the values {listed}, and a mask of two"):
        foreground(np.array(values, np.uint8), "a.nii", soft_edges)


def test_one_region_may_be_drawn_in_white():
    liver, both = {"liver": (1, 2)}, {"liver": (1,), "tumour": (2,)}
    np.testing.assert_array_equal(numbered(MASK * 255, "a", liver), MASK)
    np.testing.assert_array_equal(numbered(MASK * 2, "a", liver), MASK * 2)
    for values, regions in ((MASK * 255, both), (MASK * 3, both), (MASK * 3, liver)):
        with pytest.raises(DataError, match=r"a holds the values 0, (3|255), and the regions are"):
            numbered(values, "a", regions)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([0, 1, 2]), [0, 1, 2]),  # divided by 255
        (np.array([0, 255]), [0, 1]),
        (np.array([0, 64, 128]), [0, 64, 128]),
    ],
)
def test_a_slope_of_one_255th_is_rounded(tmp_path, stored, expected):
    stored = np.resize(stored, (3, 4, 5)).astype(np.uint8)
    image = nib.Nifti1Image(stored, np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "labels.nii")
    read = read_labels(tmp_path / "labels.nii").values
    np.testing.assert_array_equal(read.T, np.resize(expected, (3, 4, 5)), strict=False)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(labels_of("a", stored / np.float32(255)).T, read)


def test_nearly_whole_numbers_are_rounded():
    np.testing.assert_array_equal(labels_of("a", np.array([0, 0.9996, 2.0004])), [0, 1, 2])
    for values in ([0, 0.3], [0, np.nan], [0, 256.0], [-1, 0]):
        with pytest.raises(DataError, match="a holds other values than integers in"):
            labels_of("a", np.array(values))
