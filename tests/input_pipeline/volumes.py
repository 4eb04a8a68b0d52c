"""Writes NIfTI volumes byte by byte, so that a header can say anything."""

import gzip
import re

import nibabel as nib
import numpy as np

SPACING_MM = (0.7, 1.1, 2.5)  # along the axes of a file


def axes_affine(order, signs):
    """The affine of axes that run along the anatomical axes `order`, forwards or back."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING_MM[axis]
    affine[:3, 3] = (-31.5, 12.25, 700)
    return affine


def save(path, voxels, affine=None, kind=nib.Nifti1Header, **fields):
    """Writes voxels unchanged, and a header whose fields can be overwritten. -> path."""
    affine = np.diag([*SPACING_MM, 1.0]) if affine is None else affine
    header = kind(endianness=">" if voxels.dtype.str[0] == ">" else "<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = len(header.binaryblock) + 4
    for field, value in fields.items():
        header[field] = value
    content = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def without_spacing(path):
    """Takes the spacing out of a MetaImage's header. -> path."""
    content, count = re.subn(rb"ElementSpacing = .*\n", b"", path.read_bytes())
    assert count == 1
    path.write_bytes(content)
    return path
