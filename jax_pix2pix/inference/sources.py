"""Reads a user's input: a file, a folder of DICOM, a Volume, or an array with its affine."""

import os

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import (
    folder_files,
    hounsfield,
    label_values,
    mr_background,
    volume_file,
)
from jax_pix2pix.imaging.formats import nifti
from jax_pix2pix.imaging.formats.voxels import to_intensity
from jax_pix2pix.imaging.geometry import NOTHING, by, settled
from jax_pix2pix.imaging.geometry import given as given_by_user
from jax_pix2pix.imaging.safe_io import Picture
from jax_pix2pix.imaging.volume import Volume, check_affine
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.safety.accounts import PASSED, USED, Account
from jax_pix2pix.safety.paths import expanded

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


def read_series(folder, user=NOTHING):
    """Reads the CT of the one DICOM series in a folder, or of the one that the user has named.

    What else lies there is told.
    """
    from jax_pix2pix.imaging.formats import dicom  # imported late: SimpleITK is slow to import

    volume, paths = dicom.read_files(folder, user.series)
    account, used = Account(folder), {path.name for path in paths}
    for entry in folder_files.listed(folder, deep=False):
        if entry.name in used:
            account.add(entry.name, USED)
        elif entry.kind == folder_files.DICOM:
            account.add(entry.name, PASSED, "a DICOM file of another volume")
        else:
            account.add(entry.name, PASSED, entry.why or f"a {entry.kind} and no slice")
    if account.names(PASSED):
        messages.info(account.line())
    return volume


def geometry_of(path, user=NOTHING):
    """Reads the Geometry of a file, or of a DICOM series' folder. Raises DataError."""
    if os.path.isdir(path):
        return read_series(path, user).geometry
    return volume_file.read_geometry(path, user)


def volume_of(given, kind, affine=None, user=NOTHING):
    """Makes a Volume of an input.

    Args:
        given: path of a file, or for a CT of the folder of a DICOM series; Volume; nibabel image;
            or array in the axes of its affine, as in nibabel.
        kind: one of READERS, which decides what values there may be and their type.
        affine: [4, 4] for an array: from its indices to mm towards right, front and head.
        user: imaging.geometry.Given. What had to be settled is told.

    Returns:
        (Volume, its name in messages).

    Raises:
        DataError: it is none of these, has no affine, does not hold numbers of its kind in three
            dimensions, or cannot be read.
    """
    if isinstance(given, PATHS):
        path = expanded(given)
        if affine is not None:
            raise DataError(f"{path} has its own affine: leave affine out")
        if os.path.isdir(path):
            if kind != "ct":
                raise DataError(f"{path} is a folder, but this takes a file")
            return _told(read_series(path, user), path, user)
        return _told(READERS[kind](path, user), path, user)
    image = hasattr(given, "affine") and hasattr(given, "dataobj")  # of nibabel
    if affine is not None and (image or isinstance(given, Volume)):
        raise DataError(f"the {type(given).__name__} has its own affine: leave affine out")
    if isinstance(given, Volume):
        return _checked(given, kind, "the volume"), "the volume"
    header = given.header if image else None
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
    geometry = nifti.geometry_of_image("the image", header, user)
    if geometry is None:
        geometry = settled("the array", affine, given.shape, user=user)
    volume = Volume(np.ascontiguousarray(geometry.to_pictures(given)), geometry)
    return _told(_checked(volume, kind, "the array"), "the array", user)


def _checked(volume, kind, name):
    """Treats values that come in no file as those of one; a copy, as the former are the user's."""
    return Volume(VALUES[kind](volume.values.copy(), name), volume.geometry)


def _told(volume, name, user):
    """Tells what had to be settled about a volume. -> (volume, name)."""
    geometry = volume.geometry
    if not geometry.spacing_known:
        messages.warning(f"{name}: {geometry.note}; --spacing_mm=SLICES,ROWS,COLUMNS settles it")
    elif geometry.note:
        messages.info(f"{name}: {geometry.note}")
    elif user.spacing_mm:
        stated = by(geometry.spacing_mm)
        messages.info(f"{name} states its spacing, {stated} mm, so that spacing_mm does not count")
    return volume, name


def told_of(volume):
    """The notes about a volume's geometry that `volume_of` has told, for a Prediction."""
    return (volume.geometry.note,) if volume.geometry.note else ()


def read_volume(path, kind="intensity", **options):
    """Reads a volume from a file, or a CT from the folder of a DICOM series.

    Args:
        path: .nii, .nii.gz, .mha, .mhd or .nrrd, or a folder.
        kind: "intensity" for numbers of any kind, float32; "ct" for int16 HU; "labels" for uint8.
        options: spacing_mm, axes, geometry and series of `imaging.geometry.given`, for a file that
            leaves its geometry open or a folder of several series.

    Returns:
        Volume: values [slices, rows, columns] from feet to head, front to back and the patient's
        right to left, geometry, and spacing_mm between slices, rows and columns, None where it is
        unknown.

    Raises:
        DataError: it cannot be read as such, or does not say where its voxels are.
    """
    if kind not in READERS:
        raise DataError(f'kind="{kind}": use one of {", ".join(READERS)}')
    return volume_of(path, kind, user=given_by_user(**options))[0]


def picture_of(given, read, channels=1):
    """The Picture of a file, or of an array uint8.

    Args:
        read: path -> Picture.
        channels: 1 or 3; an array of 3 is [rows, columns, 3] or, grey, [rows, columns].

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if isinstance(given, PATHS):
        return read(expanded(given))
    shape = getattr(given, "shape", ())
    grey, coloured = len(shape) == 2, len(shape) == 3 and shape[-1] == channels == 3
    pixels = isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.size
    if not pixels or not (grey or coloured):
        kind = getattr(given, "dtype", type(given).__name__)
        wanted = "[rows, columns]" + (" or [rows, columns, 3]" if channels == 3 else "")
        raise DataError(
            f"{kind} of shape {shape} is no picture: give a path, or an array of uint8, {wanted}"
        )
    return Picture(given)
