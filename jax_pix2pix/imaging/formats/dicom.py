"""Reads DICOM series of CT slices in any transfer syntax that GDCM decodes, also JPEG 2000."""

import collections
import contextlib
import itertools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import scipy
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import hounsfield
from jax_pix2pix.imaging.folder_files import DICOM_ENDINGS, no_candidate
from jax_pix2pix.imaging.formats.dicom_elements import (
    ACQUISITION,
    DESCRIPTION,
    IMAGE_TYPE,
    MODALITY,
    SERIES,
    SOP_CLASS,
    TIME,
    is_dicom,
    membership,
    plain_slice,
)
from jax_pix2pix.imaging.formats.nifti import scanner_header
from jax_pix2pix.imaging.formats.voxels import check_shape
from jax_pix2pix.imaging.safe_io import unreadable
from jax_pix2pix.imaging.volume import Geometry, Volume, check_affine
from jax_pix2pix.safety.shown import check_name, shown

INTERCEPT, SLOPE = "0028|1052", "0028|1053"
PADDING, SIGNED = ("0028|0120", "0028|0121"), "0028|0103"  # a value, and the end of a range
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SAME_DIRECTION = 1e-3
SAME_DISTANCE = 0.02  # relative: positions are rounded to 0.01 mm or so
SAME_SPACING = 1e-3  # relative: 0.703 and 0.703125 are one
PARTS = {"acquisition": ACQUISITION, "time": TIME, "type": IMAGE_TYPE}  # of a series
MOST_TOLD = 12  # volumes that a message lists
TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point to left, back and head


def read_series(folder, series=""):
    """Reads one volume, as `read_files` does. -> Volume."""
    return read_files(folder, series)[0]


def read_files(folder, series=""):
    """Reads one volume of CT slices in a folder; ignores files there that are not DICOM.

    A series is one volume, unless slices of several acquisitions, temporal positions or image
    types lie between each other: then each of these is one. Those that follow each other, as of a
    scanner that moves on step by step, are one volume.

    GDCM reads copies of the slices, one at a time, in the folder for temporary files.

    Args:
        series: the SeriesInstanceUID, where there are several series; of such a series the name
            that the error lists, UID/acquisition=2. "" is the only volume.

    Returns:
        (Volume of int16: Hounsfield units, AIR_HU where the slices are padded; Paths of its files).

    Raises:
        DataError: the folder holds no such volume, or several to choose from, which the text lists;
            a file cannot be read, or is no CT slice; the slices differ in size or direction, are
            sheared by a tilted gantry, or lie at unequal distances, because one is missing or there
            twice; or `hounsfield.check_hu` refuses the values.
    """
    volume, paths = _stacked(folder, series)
    return Volume(hounsfield.as_hu(volume.values, folder), volume.geometry), paths


def read_labels(folder):
    """Reads a mask that is stored as a series, as `read_series` does. -> Volume of uint8.

    Raises:
        DataError: as `read_series`, or a value is not in [0, 255].
    """
    volume, _ = _stacked(folder, None)
    if volume.values.min() < 0 or volume.values.max() > 255:
        raise DataError(f"{folder} holds values outside [0, 255]: give a mask")
    return Volume(volume.values.astype(np.uint8), volume.geometry)


def _stacked(folder, series):
    """(Volume of int16 of a series, as its rescaled numbers are; Paths of its slices).

    series: as of `read_files`; None where a user cannot name one.
    """
    told = _of_one_series(folder, _told(folder), series and series.partition("/")[0])
    with no_warnings(), tempfile.TemporaryDirectory() as copies:
        copy = Path(copies, "slice.dcm")
        slices = [_Slice(path, texts, copy) for path, texts in told.items()]
        slices = _of_one_volume(folder, slices, series)
        geometry = _geometry(folder, slices)
        columns, rows = slices[0].size
        values = np.empty((len(slices), rows, columns), np.int16)
        for value, one in zip(values, slices, strict=True):
            value[...] = one.hu()
    # NIfTI counts the axes from columns to slices.
    volume = Volume(np.ascontiguousarray(geometry.to_pictures(values.transpose())), geometry)
    return volume, [one.path for one in slices]


@contextlib.contextmanager
def no_warnings():
    """Keeps ITK from printing what is a DataError here, and about files that are not DICOM."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _files(folder):
    """Finds the DICOM files of a folder, among those that `folder_files` takes for candidates."""
    found = []
    for path in sorted(Path(folder).glob("*")):
        if no_candidate(path.name) or not path.is_file():
            continue
        with of_a_file(path):
            if is_dicom(path, folder):
                check_name(str(path))
                found.append(path)
            elif not path.stat().st_size or path.suffix.lower() in DICOM_ENDINGS:
                raise ValueError("empty, or it does not begin as DICOM does")
    if not found:
        raise DataError(f"{folder} holds no DICOM series: give the folder that its slices lie in")
    return found


def _told(folder):
    """Reads which volume each file belongs to: {path: {tag: text}}."""
    told = {}
    for path in _files(folder):
        with of_a_file(path):
            told[path] = membership(path, path.parent)
    return told


def _of_one_series(folder, told, series):
    """Takes the files of the series of this UID, or of the only one."""
    groups = collections.defaultdict(dict)
    for path, texts in told.items():
        groups[texts[SERIES]][path] = texts
    counts = {
        name: (len(group), next(iter(group.values()))) for name, group in sorted(groups.items())
    }
    return groups[_choice(folder, counts, series)]


def _of_one_volume(folder, slices, wanted):
    """Takes the volume of this name out of the slices of a series, or the only one, sorted."""
    series = slices[0].texts[SERIES]
    groups = {series: sorted(slices, key=lambda one: one.height)}
    for part, tag in PARTS.items():
        for name, group in list(groups.items()):
            values = collections.defaultdict(list)
            for one in group:
                values[one.texts[tag].replace("\\", "/")].append(one)
            if _between_each_other(values.values()):
                del groups[name]
                groups |= {f"{name}/{part}={value}": of for value, of in values.items()}
    counts = {name: (len(group), group[0].texts) for name, group in groups.items()}
    of_parts = len(groups) > 1 or "/" in (wanted or "")
    return groups[_choice(folder, counts, wanted if of_parts else series)]


def _between_each_other(groups):
    """Whether slices of one group lie between those of another. Groups are sorted by height."""
    ranges = sorted((group[0].height, group[-1].height) for group in groups if len(group) > 1)
    return any(low < high for (_, high), (low, _) in itertools.pairwise(ranges))


def _choice(folder, counts, wanted):
    """The name of the only volume, or the wanted one. counts: {name: (slices, {tag: text})}."""
    if wanted in counts or (not wanted and len(counts) == 1):
        return wanted or next(iter(counts))
    listed = []
    for name, (count, texts) in list(counts.items())[:MOST_TOLD]:
        about = (texts[DESCRIPTION], texts[MODALITY], f"{count} slices")
        listed.append(f"{name} ({', '.join(filter(None, about))})")
    if len(counts) > MOST_TOLD:
        listed.append(f"and {len(counts) - MOST_TOLD} more")
    missing = f"no DICOM series {wanted}, but " if wanted else ""
    what = "volumes" if len(counts) > 1 else "volume"
    way = "choose one by --series=UID, as it is listed"
    if wanted is None:
        way = "leave the slices of one in the folder"
    raise DataError(
        shown(f"{folder} holds {missing}{len(counts)} DICOM {what}: {', '.join(listed)}: ") + way
    )


@contextlib.contextmanager
def of_a_file(path, kind="a DICOM slice"):
    """Raises errors of a block that reads a DICOM file as a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, kind, error) from error
    except RuntimeError as error:
        # ITK's text has many lines; the last one tells what happened.
        raise unreadable(path, kind, str(error).splitlines()[-1]) from error


class _Slice:
    """A file of a series. Raises DataError if it is not a CT slice or cannot be read.

    Args:
        path: of the file.
        texts: what `dicom_elements.membership` gives of it.
        copy: path that the copy for GDCM is written to; slices share it.
    """

    def __init__(self, path, texts, copy):
        self.path, self.texts, self._copy = path, texts, copy
        self._reader = sitk.ImageFileReader()
        self._reader.SetImageIO("GDCMImageIO")
        self._reader.SetFileName(str(copy))
        self._reader.SetOutputPixelType(sitk.sitkFloat64)  # HU may be fractions
        self._read(self._reader.ReadImageInformation)
        modality = texts[MODALITY] or ("CT" if texts[SOP_CLASS] == CT_IMAGE else "")
        if modality != "CT":
            raise DataError(f"{path} is not a CT slice: take it out of the folder")
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
        with of_a_file(self.path):
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
        if one.size != first.size or not np.allclose(
            one.spacing, first.spacing, rtol=SAME_SPACING, atol=0
        ):
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
    shape = (*first.size, len(slices))
    return Geometry(affine, shape, scanner_header(affine, shape))
