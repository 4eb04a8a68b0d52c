"""Reads and writes volumes; the ending of a file's name sets the format.

The formats are NIfTI (.nii, .nii.gz), MetaImage (.mha, or .mhd with its voxels in a file beside
it) and NRRD (.nrrd). A volume may be written in another format than it was read from: voxels keep
their places in the patient.
"""

import os

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats import metaimage, nifti, nrrd, voxels

_FORMATS = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".mha": metaimage,
    ".mhd": metaimage,
    ".nrrd": nrrd,
}
ENDINGS = tuple(_FORMATS)
LEAST_SPAN_HU = 100  # the values of any CT span more: fat to muscle does


def read_geometry(path):
    """Reads and checks only the header of a volume.

    Returns:
        Geometry.

    Raises:
        DataError: the file has another ending, or not the format that its ending says; it does not
            have three dimensions, has too many voxels, claims more than it can hold, holds no
            numbers, or does not say where its voxels are.
    """
    return _format(path).read_geometry(path)


def read_ct(path):
    """Reads a CT.

    Returns:
        Volume of int16: Hounsfield units, rounded where scaling gave fractions.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; or a voxel is not a number
            or does not fit into int16.
    """
    return _format(path).read(path, np.int16, voxels.to_hu)


def read_hu(path):
    """Reads a CT as `read_ct` and checks its values: those scaled to [0, 1] would all round to 0.

    Raises:
        DataError: as `read_ct`; no value is negative; or they span less than LEAST_SPAN_HU.
    """
    volume = read_ct(path)
    least, most = int(volume.values.min()), int(volume.values.max())
    if least >= 0 or most - least < LEAST_SPAN_HU:
        raise DataError(
            f"{path} holds values of {least} to {most}, which are no HU: air is -1000 and "
            "water 0 HU, so scale it back or subtract its offset"
        )
    return volume


def read_mr(path):
    """Reads an MR, or any other volume of numbers. Returns Volume of float32; raises as read_ct."""
    return _format(path).read(path, np.float32, voxels.to_intensity)


def read_labels(path):
    """Reads a label volume.

    Returns:
        Volume of uint8.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; or a voxel is not an
            integer in [0, 255].
    """
    return _format(path).read(path, np.uint8, voxels.to_labels)


def write_hu(path, hu, volume):
    """Writes Hounsfield units on the voxels of a volume, with its axes, shape and affine.

    Args:
        path: ends in one of ENDINGS. For NAME.mhd the voxels are written to NAME.raw.
        hu: int16 [slices, rows, columns].
        volume: Volume on whose grid they are. Its own format keeps the geometry bit for bit. A
            NIfTI file of a volume from another format has the code for scanner coordinates.

    Raises:
        DataError: `path` has another ending.
    """
    _write(path, hu.astype(np.int16, casting="no"), volume)


def write_mask(path, mask, volume):
    """Writes a mask, uint8 [slices, rows, columns], as `write_hu` does."""
    _write(path, mask.astype(np.uint8, casting="no"), volume)


def write_map(path, values, volume):
    """Writes float32 values [slices, rows, columns], as `write_hu` does."""
    _write(path, values.astype(np.float32, casting="same_kind"), volume)


def voxel_file(path):
    """Finds the file beside a .mhd that holds its voxels, or None. Raises as read_geometry."""
    return metaimage.voxel_file(path) if _ending(os.fspath(path)) == ".mhd" else None


def without_ending(name):
    """Removes one of ENDINGS from a file's name or path."""
    return name[: -len(_ending(name))]


def _write(path, values, volume):
    form = _format(path)
    form.write(path, volume.geometry.to_file(values), volume.geometry)


def _format(path):
    return _FORMATS[_ending(os.fspath(path))]


def _ending(path):
    for ending in ENDINGS:
        if path.lower().endswith(ending):
            return ending
    raise DataError(f"{path} must end in {', '.join(ENDINGS)}: convert it, or rename it")
