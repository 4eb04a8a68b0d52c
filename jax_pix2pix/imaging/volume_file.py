"""Reads and writes volumes; the ending of a file's name sets the format.

The formats are NIfTI (.nii, .nii.gz), MetaImage (.mha, or .mhd with its voxels in a file beside
it) and NRRD (.nrrd). A volume may be written in another format than it was read from: voxels keep
their places in the patient.
"""

import os

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import hounsfield, label_values, mr_background
from jax_pix2pix.imaging.formats import metaimage, nifti, nrrd, voxels
from jax_pix2pix.imaging.geometry import NOTHING
from jax_pix2pix.imaging.volume import Volume

_FORMATS = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".mha": metaimage,
    ".mhd": metaimage,
    ".nrrd": nrrd,
}
ENDINGS = tuple(_FORMATS)


def read_geometry(path, user=NOTHING):
    """Reads and checks only the header of a volume.

    Args:
        user: Given, of what a file leaves open; of the readers below too.

    Returns:
        Geometry.

    Raises:
        DataError: the file has another ending, or not the format that its ending says; it does not
            have three dimensions, has too many voxels, claims more than it can hold, holds no
            numbers, or does not say where its voxels are, or says two things and `user` none.
    """
    return _format(path).read_geometry(path, user)


def read_ct(path, user=NOTHING):
    """Reads a CT.

    Returns:
        Volume of int16: Hounsfield units, rounded where scaling gave fractions, AIR_HU outside of
        the field of view.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; a voxel is not a number
            or does not fit into int16; or `hounsfield.check_hu` refuses the values.
    """
    volume = _format(path).read(path, np.int16, hounsfield.rounded, user)
    return Volume(hounsfield.as_hu(volume.values, path), volume.geometry)


def read_mr(path, user=NOTHING):
    """Reads an MR, or any other volume of numbers.

    Returns:
        Volume of float32; what is not a number outside of the body is the lowest value.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; or
            `mr_background.filled` refuses the values.
    """
    volume = _format(path).read(path, np.float32, voxels.to_intensity, user)
    return Volume(mr_background.filled(volume.values, path), volume.geometry)


def read_labels(path, user=NOTHING):
    """Reads a label volume.

    Returns:
        Volume of uint8.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; or a voxel is neither an
            integer in [0, 255] nor, where any is a fraction, one of them divided by 255.
    """
    try:
        return _format(path).read(path, np.uint8, label_values.whole, user)
    except label_values.FractionError:
        return _format(path).read(path, np.uint8, label_values.whole_of_255, user)


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
