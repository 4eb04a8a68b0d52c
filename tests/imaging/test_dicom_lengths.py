"""Lengths of DICOM's elements: published files and GDCM's own are sound, shortened ones are not."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.imaging.formats.dicom_lengths import check_lengths

PUBLISHED = sorted(Path(nibabel.__file__).parent.rglob("*.dcm"))  # of scanners


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_files_are_sound(path):
    check_lengths(path)


@pytest.mark.parametrize("compression", [None, "JPEG", "JPEG2000"])
def test_files_of_gdcm_are_sound_until_they_are_cut(tmp_path, compression):
    voxels = np.random.default_rng(0).integers(0, 1000, (1, 40, 30)).astype(np.uint16)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    if compression:
        writer.UseCompressionOn()
        writer.SetCompressor(compression)
    path = tmp_path / "a.dcm"
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(voxels))
    check_lengths(path)
    content = path.read_bytes()
    assert (b"\xfe\xff\x00\xe0" in content) == bool(compression)  # fragments
    # Padding behind the last element.
    path.write_bytes(content + bytes(64))
    check_lengths(path)
    for size in (len(content) - 200, len(content) // 2, 300):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"claims|ends within"):
            check_lengths(path)
