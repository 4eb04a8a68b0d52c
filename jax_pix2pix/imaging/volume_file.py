"""Volumes in files of any format that is read here, by the endings of their names.

NIfTI (.nii, .nii.gz), MetaImage (.mha, or .mhd with its voxels in a file beside it) and NRRD
(.nrrd). What is written may have another format than the volume that it is of: voxels keep their
places in the patient.
"""

import os

import numpy as np

from jax_pix2pix.imaging.formats import metaimage, nifti, nrrd, voxels
from jax_pix2pix.errors import DataError

_FORMATS = {
    ".nii": nifti,
    ".nii.gz": nifti,
    ".mha": metaimage,
    ".mhd": metaimage,
    ".nrrd": nrrd,
}
ENDINGS = tuple(_FORMATS)
LEAST_SPAN_HU = 100  # of a CT: from fat to muscle it is more


def read_geometry(path):
    """Reads the header of a volume only, and checks it.

    Returns:
        Geometry.

    Raises:
        DataError: the file has another ending, or not the format that its ending says; it has not
            three dimensions or too many voxels, claims more than it can hold, holds no numbers,
            or does not say where its voxels are.
    """
    return _format(path).read_geometry(path)


def read_ct(path):
    """Reads a CT.

    Returns:
        Volume of int16: Hounsfield units, rounded where scaling made fractions of them.

    Raises:
        DataError: as `read_geometry`; the file is truncated or damaged; or a voxel is not a number
            or does not fit into int16.
    """
    return _format(path).read(path, np.int16, voxels.to_hu)


def read_hu(path):
    """As `read_ct`, of values that a CT has: what was scaled to [0, 1] would all be rounded to 0.

    Raises:
        DataError: as `read_ct`, or there is no air or hardly any contrast.
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
    """Writes Hounsfield units of the voxels of a volume, with its axes, shape and affine.

    Args:
        path: ends in one of ENDINGS. For NAME.mhd the voxels are written to NAME.raw.
        hu: int16 [slices, rows, columns].
        volume: Volume on whose grid they are. In its own format the geometry is kept bit for bit;
            NIfTI has codes for what an affine leads to, and the scanner's is written where the
            volume comes from another format.

    Raises:
        DataError: of `path`, as `read_geometry`.
    """
    _write(path, hu.astype(np.int16, casting="no"), volume)


def write_mask(path, mask, volume):
    """Writes a mask, uint8 [slices, rows, columns], as `write_hu` does."""
    _write(path, mask.astype(np.uint8, casting="no"), volume)


def write_map(path, values, volume):
    """Writes float32 values [slices, rows, columns], as `write_hu` does."""
    _write(path, values.astype(np.float32, casting="same_kind"), volume)


def voxel_file(path):
    """The file beside a .mhd that holds its voxels, or None. Raises DataError, as read_geometry."""
    return metaimage.voxel_file(path) if _ending(os.fspath(path)) == ".mhd" else None


def without_ending(name):
    """A file's name, or its path, without one of ENDINGS."""
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
