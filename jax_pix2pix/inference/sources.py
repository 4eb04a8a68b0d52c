"""Reads a user's input: a file, a folder of DICOM, a Volume, or an array with its affine."""

import os

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import hounsfield, label_values, mr_background, volume_file
from jax_pix2pix.imaging.formats.voxels import to_intensity
from jax_pix2pix.imaging.volume import Geometry, Volume, check_affine

PATHS = (str, os.PathLike)
READERS = {
    "intensity": volume_file.read_mr,
    "ct": volume_file.read_ct,
    "labels": volume_file.read_labels,
}
VALUES = {  # (values of an array, name) -> those that the reader of a file gives
    "intensity": lambda values, name: mr_background.filled(to_intensity(name, values), name),
    "ct": hounsfield.as_hu,
    "labels": lambda values, name: label_values.labels_of(name, values),
}


def read_series(folder):
    """Reads the CT of the one DICOM series in a folder."""
    from jax_pix2pix.imaging.formats import dicom  # imported late: SimpleITK is slow to import

    return dicom.read_series(folder)


def volume_of(given, kind, affine=None):
    """Makes a Volume of an input.

    Args:
        given: path of a file, or for a CT of the folder of a DICOM series; Volume; nibabel image;
            or array in the axes of its affine, as in nibabel.
        kind: one of READERS, which decides what values there may be and their type.
        affine: [4, 4] for an array: from its indices to mm towards right, front and head.

    Returns:
        (Volume, its name in messages).

    Raises:
        DataError: it is none of these, has no affine, does not hold numbers of its kind in three
            dimensions, or cannot be read.
    """
    if isinstance(given, PATHS):
        path = os.fspath(given)
        if affine is not None:
            raise DataError(f"{path} has its own affine: leave affine out")
        if os.path.isdir(path):
            if kind != "ct":
                raise DataError(f"{path} is a folder, but this takes a file")
            return read_series(path), path
        return READERS[kind](path), path
    image = hasattr(given, "affine") and hasattr(given, "dataobj")  # of nibabel
    if affine is not None and (image or isinstance(given, Volume)):
        raise DataError(f"the {type(given).__name__} has its own affine: leave affine out")
    if isinstance(given, Volume):
        return _checked(given, kind, "the volume"), "the volume"
    if image:
        given, affine = np.asanyarray(given.dataobj), given.affine
    if not isinstance(given, np.ndarray):
        raise DataError(
            f"{type(given).__name__} is no volume: give a path, a Volume, a nibabel image, or an "
            "array with its affine"
        )
    if affine is None:
        raise DataError(
            "an array says neither where its voxels are nor how large: give affine=, 4 x 4, from "
            "its indices to mm towards right, front and head, as nibabel has it"
        )
    try:
        affine = np.asarray(affine, np.float64)
    except (TypeError, ValueError):
        raise DataError("affine holds no numbers: give 4 x 4 of them") from None
    if affine.shape != (4, 4):
        raise DataError(f"affine has the shape {affine.shape}: give one of 4 x 4")
    if given.ndim != 3 or not given.size or given.dtype.kind not in "biuf":
        raise DataError(
            f"the array has the shape {given.shape} of {given.dtype}: give three dimensions of "
            "numbers"
        )
    check_affine("the array", affine)
    geometry = Geometry(affine, given.shape)
    volume = Volume(np.ascontiguousarray(geometry.to_pictures(given)), geometry)
    return _checked(volume, kind, "the array"), "the array"


def _checked(volume, kind, name):
    """Treats values that come in no file as those of one; a copy, as the former are the user's."""
    return Volume(VALUES[kind](volume.values.copy(), name), volume.geometry)


def read_volume(path, kind="intensity"):
    """Reads a volume from a file, or a CT from the folder of a DICOM series.

    Args:
        path: .nii, .nii.gz, .mha, .mhd or .nrrd, or a folder.
        kind: "intensity" for numbers of any kind, float32; "ct" for int16 HU; "labels" for uint8.

    Returns:
        Volume: values [slices, rows, columns] from feet to head, front to back and the patient's
        right to left, geometry, and spacing_mm between slices, rows and columns.

    Raises:
        DataError: it cannot be read as such, or does not say where its voxels are.
    """
    if kind not in READERS:
        raise DataError(f'kind="{kind}": use one of {", ".join(READERS)}')
    return volume_of(path, kind)[0]


def picture_of(given, read, channels=1):
    """Pixels of a picture: of a file, or an array uint8 as `read` gives it.

    Args:
        channels: 1 or 3; an array of 3 is [rows, columns, 3] or, grey, [rows, columns].

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if isinstance(given, PATHS):
        return read(given)
    shape = getattr(given, "shape", ())
    grey, coloured = len(shape) == 2, len(shape) == 3 and shape[-1] == channels == 3
    pixels = isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.size
    if not pixels or not (grey or coloured):
        kind = getattr(given, "dtype", type(given).__name__)
        wanted = "[rows, columns]" + (" or [rows, columns, 3]" if channels == 3 else "")
        raise DataError(
            f"{kind} of shape {shape} is no picture: give a path, or an array of uint8, {wanted}"
        )
    return given
