"""An MR whose background is not a number, as elastix and ANTs may leave it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.volume_file import read_mr
from jax_pix2pix.inference.sources import volume_of

MR = (
    Path(__file__).parents[2]
    / "input_pipeline/samples/brain_templates/Task1/brain/template/mr.nii.gz"
)


def test_background_is_the_lowest_value_and_a_gap_in_the_body_is_refused(tmp_path):
    image = nib.load(MR)
    values = image.get_fdata(dtype=np.float32)
    missing = np.where(values == 0, np.nan, values)
    outside = np.where(np.arange(values.shape[0])[:, None, None] < 9, np.nan, values)
    lowest = values[values > 0].min()
    for each, expected in (
        (missing, np.where(values == 0, lowest, values)),
        (outside, values),
    ):
        nib.save(nib.Nifti1Image(each, image.affine), tmp_path / "mr.nii")
        read = read_mr(tmp_path / "mr.nii")
        np.testing.assert_array_equal(read.geometry.to_file(read.values), expected)
        volume, _ = volume_of(each, "intensity", image.affine)
        np.testing.assert_array_equal(volume.values, read.values)
        assert np.isnan(each).any()  # the caller's own array
    middle = tuple(side // 2 for side in values.shape)
    values[middle[0], middle[1], middle[2] - 1 : middle[2] + 2] = np.nan
    for path, given in (("mr.nii", values), ("all.nii", np.full_like(values, np.nan))):
        nib.save(nib.Nifti1Image(given, image.affine), tmp_path / path)
    with pytest.raises(DataError, match=r"mr\.nii holds 3 voxels in the body that are not numbers"):
        read_mr(tmp_path / "mr.nii")
    with pytest.raises(DataError, match=r"all\.nii holds no numbers"):
        read_mr(tmp_path / "all.nii")
