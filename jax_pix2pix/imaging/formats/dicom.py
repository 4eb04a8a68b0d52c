"""Reads DICOM series of CT slices in any transfer syntax that GDCM decodes, also JPEG 2000."""

import contextlib
import statistics
import tempfile
from pathlib import Path

import numpy as np
import scipy
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import hounsfield
from jax_pix2pix.imaging.formats.dicom_elements import is_dicom, plain_slice
from jax_pix2pix.imaging.formats.nifti import geometry_of, scanner_header
from jax_pix2pix.imaging.formats.voxels import check_shape
from jax_pix2pix.imaging.safe_io import unreadable
from jax_pix2pix.imaging.volume import Volume, check_affine
from jax_pix2pix.safety.shown import check_name

MODALITY, SERIES = "0008|0060", "0020|000e"
INTERCEPT, SLOPE = "0028|1052", "0028|1053"
PADDING, SIGNED = ("0028|0120", "0028|0121"), "0028|0103"  # a value, and the end of a range
SAME_DIRECTION = 1e-3
SAME_DISTANCE = 0.02  # relative: positions are rounded to 0.01 mm or so
TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point to left, back and head


def read_series(folder):
    """Reads the one series of CT slices in a folder; ignores files there that are not DICOM.

    GDCM reads copies of the slices, one at a time, in the folder for temporary files.

    Returns:
        Volume of int16: Hounsfield units, AIR_HU where the slices are padded.

    Raises:
        DataError: the folder holds no series, or several; a file cannot be read, or is no CT slice;
            the slices differ in size or direction, are sheared by a tilted gantry, or lie at
            unequal distances, because one is missing or there twice; or `hounsfield.check_hu`
            refuses the values.
    """
    paths = _files(folder)
    with _no_warnings(), tempfile.TemporaryDirectory() as copies:
        copy = Path(copies, "slice.dcm")
        slices = sorted((_Slice(path, copy) for path in paths), key=lambda one: one.height)
        _check_one_series(folder, slices)
        geometry = _geometry(folder, slices)
        columns, rows = slices[0].size
        values = np.empty((len(slices), rows, columns), np.int16)
        for value, one in zip(values, slices, strict=True):
            value[...] = one.hu()
    # NIfTI counts the axes from columns to slices.
    values = np.ascontiguousarray(geometry.to_pictures(values.transpose()))
    return Volume(hounsfield.as_hu(values, folder), geometry)


@contextlib.contextmanager
def _no_warnings():
    """Keeps ITK from printing what is a DataError here, and about files that are not DICOM."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _files(folder):
    """Finds the DICOM files of a folder; those that are hidden and a DICOMDIR are none."""
    found = []
    for path in sorted(Path(folder).glob("*")):
        if path.name == "DICOMDIR" or path.name[0] == "." or not path.is_file():
            continue
        with _of_a_slice(path):
            if is_dicom(path, folder):
                check_name(str(path))
                found.append(path)
            elif not path.stat().st_size or path.suffix.lower() == ".dcm":
                raise ValueError("empty, or it does not begin as DICOM does")
    if not found:
        raise DataError(f"{folder} holds no DICOM series: give the folder that its slices lie in")
    return found


def _check_one_series(folder, slices):
    series = sorted({one.series for one in slices})
    if len(series) > 1:
        raise DataError(
            f"{folder} holds {len(series)} DICOM series ({', '.join(series[:5])}): put each into "
            "a folder of its own"
        )


@contextlib.contextmanager
def _of_a_slice(path):
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, "a DICOM slice", error) from error
    except RuntimeError as error:
        # ITK's text has many lines; the last one tells what happened.
        raise unreadable(path, "a DICOM slice", str(error).splitlines()[-1]) from error


class _Slice:
    """A file of a series. Raises DataError if it is not a CT slice or cannot be read.

    Args:
        path: of the file.
        copy: path that the copy for GDCM is written to; slices share it.
    """

    def __init__(self, path, copy):
        self.path, self._copy = path, copy
        self._reader = sitk.ImageFileReader()
        self._reader.SetImageIO("GDCMImageIO")
        self._reader.SetFileName(str(copy))
        self._reader.SetOutputPixelType(sitk.sitkFloat64)  # HU may be fractions
        self._read(self._reader.ReadImageInformation)
        keys = self._reader.GetMetaDataKeys()
        if MODALITY not in keys or self._reader.GetMetaData(MODALITY).strip() != "CT":
            raise DataError(f"{path} is not a CT slice: take it out of the folder")
        self.series = self._reader.GetMetaData(SERIES).strip("\0 ") if SERIES in keys else ""
        try:
            intercept, slope = (float(self._reader.GetMetaData(key)) for key in (INTERCEPT, SLOPE))
            if not np.isfinite((intercept, slope)).all():
                raise ValueError
        except (RuntimeError, ValueError):
            raise DataError(
                f"{path} has no rescale slope and intercept, so that its HU are unknown: remove it"
            ) from None
        self._padding = _padding_hu(self._reader, intercept, slope)
        self.size = self._reader.GetSize()[:2]  # columns, rows
        self.spacing = self._reader.GetSpacing()[:2]
        self.direction = np.reshape(self._reader.GetDirection(), (3, 3))
        self.position = np.array(self._reader.GetOrigin())
        self.height = float(self.position @ self.direction[:, 2])

    def hu(self):
        """int16 [rows, columns]."""
        # A copy: a view would outlive its image.
        hu = sitk.GetArrayFromImage(self._read(self._reader.Execute))[0]
        if self._padding:
            low, high = self._padding
            hu[_at_border((low <= hu) & (hu <= high))] = hounsfield.AIR_HU
        return hounsfield.rounded(self.path, hu).astype(np.int16)

    def _read(self, read):
        with _of_a_slice(self.path):
            self._copy.write_bytes(plain_slice(self.path, self.path.parent))
            return read()


def _padding_hu(reader, intercept, slope):
    """The interval of HU, within rounding, that fills what lies outside of the field of view.

    Writers often give the elements another sign than the pixels, whose own decides.
    """
    stored = [int(reader.GetMetaData(key)) for key in PADDING if reader.HasMetaDataKey(key)]
    if not stored:
        return None
    if reader.HasMetaDataKey(SIGNED) and int(reader.GetMetaData(SIGNED)):
        stored = [number - 65536 if number > 32767 else number for number in stored]
    ends = [slope * number + intercept for number in stored]
    return min(ends) - abs(slope) / 2, max(ends) + abs(slope) / 2


def _at_border(mask):
    """Keeps the parts of a bool [rows, columns] that reach its border.

    Padding does, and a voxel of the body that happens to have its value does not.
    """
    parts, _ = scipy.ndimage.label(mask)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return mask & np.isin(parts, border)


def _geometry(folder, slices):
    first, last = slices[0], slices[-1]
    if len(slices) < 2:
        raise DataError(f"{first.path} is the only slice: a series needs two or more")
    for one in slices[1:]:
        if (one.size, one.spacing) != (first.size, first.spacing):
            raise DataError(
                f"{one.path} has {one.size} pixels of {one.spacing} mm, but {first.path} "
                f"{first.size} of {first.spacing} mm: put the former into another folder"
            )
        if np.abs(one.direction - first.direction).max() > SAME_DIRECTION:
            raise DataError(
                f"{one.path} is not parallel to {first.path}: put it into another folder"
            )
    check_shape(folder, (len(slices), *first.size), np.dtype(np.int16))
    distances = np.diff([one.height for one in slices])
    usual = statistics.median_low(distances)
    for one, other, distance in zip(slices, slices[1:], distances, strict=False):
        # Negated, the condition refuses a distance of NaN too.
        if not (distance > 0 and abs(distance - usual) <= SAME_DISTANCE * usual):
            raise DataError(
                f"{one.path} and {other.path} are {distance:g} mm apart, the others {usual:g} mm: "
                "a slice is missing, or there twice"
            )
    step = (last.position - first.position) / (len(slices) - 1)
    distance = float(step @ first.direction[:, 2])
    if np.abs(step - distance * first.direction[:, 2]).max() > SAME_DISTANCE * distance:
        raise DataError(
            f"{folder} was scanned with a tilted gantry, so that its slices are sheared: resample "
            "them to a NIfTI volume"
        )
    affine = np.eye(4)
    axes = first.direction @ np.diag([*first.spacing, distance])
    affine[:3, :3], affine[:3, 3] = TO_RAS @ axes, TO_RAS @ first.position
    check_affine(folder, affine)
    return geometry_of(scanner_header(affine, (*first.size, len(slices))))
