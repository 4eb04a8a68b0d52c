"""NIfTI files, .nii and .nii.gz: a header is checked before memory is taken for its voxels."""

import contextlib
import gzip
import os

import nibabel as nib
import numpy as np
from nibabel import orientations

from input_pipeline.raw.volume import Geometry, Volume
from input_pipeline.safe_io import DataError, unreadable

MAX_BYTES = 2**31  # of the voxels as they are stored
DEFLATE_RATIO = 1032  # gzip compresses nothing better than this
SPACING_MM = (0.01, 50.0)
FLATTEST = 0.1  # volume of the unit vectors along the axes: 1 where they are perpendicular
HEADERS = {  # by the first field, which is the header's length, and the signature
    348: (nib.Nifti1Header, b"n+1"),
    540: (nib.Nifti2Header, b"n+2"),
}
UNITS = {0: "an unknown unit", 1: "metres", 2: "millimetres", 3: "micrometres"}
GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def read_geometry(path):
    """Reads the header of a volume only, and checks it.

    Returns:
        Geometry.

    Raises:
        DataError: the file is no NIfTI, has not three dimensions or too many voxels, claims more
            than it can hold, holds no numbers, or does not say where its voxels are.
    """
    with _opened(path) as (file, most_bytes):
        return _geometry(path, file, most_bytes)


def read_ct(path):
    """Reads a CT.

    Returns:
        Volume of int16: Hounsfield units, rounded where scaling made fractions of them.

    Raises:
        DataError: as `read_geometry`; the file is truncated; or a voxel is not a number or
            does not fit into int16.
    """

    def to_hu(plane):
        if not np.isfinite(plane).all():
            raise DataError(f"{path} holds voxels that are not numbers: correct them")
        plane = np.rint(plane)
        if plane.min() < -32768 or plane.max() > 32767:
            raise DataError(
                f"{path} holds values from {plane.min():g} to {plane.max():g} in a slice, which is "
                "not a CT's: save it as int16, in Hounsfield units"
            )
        return plane

    return _read(path, np.int16, to_hu)


def read_labels(path):
    """Reads a label volume.

    Returns:
        Volume of uint8.

    Raises:
        DataError: as `read_geometry`; the file is truncated; or a voxel is not an integer in
            [0, 255].
    """

    def to_labels(plane):
        if not (plane == np.rint(plane)).all() or plane.min() < 0 or plane.max() > 255:
            raise DataError(
                f"{path} holds other values than integers in [0, 255]: save the labels as uint8"
            )
        return plane

    return _read(path, np.uint8, to_labels)


def write_mask(path, mask, volume):
    """Writes a mask of a volume as NIfTI with the volume's axes, shape and affine.

    Args:
        path: ends in .nii or .nii.gz.
        mask: uint8 [slices, rows, columns].
        volume: Volume that the mask is of.
    """
    _write(path, mask.astype(np.uint8, casting="no"), volume.geometry)


def write_map(path, values, volume):
    """Writes float32 values [slices, rows, columns], as `write_mask` does."""
    _write(path, values.astype(np.float32, casting="same_kind"), volume.geometry)


@contextlib.contextmanager
def _opened(path):
    """Gives the file, uncompressed, and the most bytes it can hold; turns errors into DataError."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            compressed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if compressed:
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
            yield file, size * (DEFLATE_RATIO if compressed else 1)
    except DataError:
        raise
    except Exception as error:  # gzip raises EOFError and zlib.error, nibabel errors of its own
        raise unreadable(path, "a NIfTI volume", error) from error


def _geometry(path, file, most_bytes):
    """Reads the header from an opened file. Returns Geometry."""
    start = file.read(4)
    length = min(int.from_bytes(start, order) for order in ("little", "big"))
    if length not in HEADERS:
        raise ValueError("it does not begin as NIfTI does")
    kind, signature = HEADERS[length]
    header = kind(start + file.read(length - 4), check=False)
    if not header["magic"].item().startswith(signature):
        raise ValueError("it has not the signature of NIfTI in one file")
    _check_voxels(path, header, most_bytes)
    _check_affine(path, header)
    return Geometry(header)


def _check_voxels(path, header, most_bytes):
    count = int(header["dim"][0])
    shape = header["dim"][1 : 1 + count].tolist()
    if count != 3 + (shape[3:] == [1]) or min(shape) < 1:
        raise DataError(f"{path} has the shape {tuple(shape)}: save it with three dimensions")
    if header.get_data_dtype().kind not in "iuf":
        raise DataError(f"{path} holds {header.get_data_dtype()}: save one number a voxel")
    header.get_slope_inter()  # raises
    if _bytes(header) > MAX_BYTES:
        raise DataError(
            f"{path} claims {_bytes(header)} bytes of voxels, above the limit of {MAX_BYTES}: "
            "crop it, or save it as int16"
        )
    offset = float(header["vox_offset"])
    if not int(header["sizeof_hdr"]) + 4 <= offset <= MAX_BYTES:
        raise ValueError(f"its voxels begin at byte {offset:g}")
    if offset + _bytes(header) > most_bytes:
        raise ValueError(f"no {_bytes(header)} bytes for the shape {tuple(shape)}")


def _check_affine(path, header):
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # as the standard has it
    if header["qform_code"] <= 0 and header["sform_code"] <= 0:
        raise DataError(
            f"{path} does not say where the patient's left is (qform_code and sform_code are 0): "
            "set its affine"
        )
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):  # many do not tell, and mean millimetres
        raise DataError(f"{path} is in {UNITS.get(unit, 'no unit of length')}: convert it to mm")
    affine = header.get_best_affine()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_MM
    if not np.isfinite(affine).all() or not ((low <= spacing) & (spacing <= high)).all():
        raise DataError(
            f"{path} has voxels of {' x '.join(f'{mm:g}' for mm in spacing)} mm, outside of "
            f"{low:g} to {high:g} mm: correct its affine"
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < FLATTEST:
        raise DataError(f"{path} has a singular affine, of axes in one plane: correct it")
    if header["qform_code"] > 0 and header["sform_code"] > 0:
        codes = [orientations.aff2axcodes(form) for form in (header.get_qform(), affine)]
        if codes[0] != codes[1]:
            raise DataError(
                f"{path} has axes towards {''.join(codes[0])} in its qform and "
                f"{''.join(codes[1])} in its sform: correct the wrong one"
            )


def _bytes(header):
    return int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize


def _read(path, dtype, convert):
    """Reads a volume and converts it slice by slice, so that one slice alone is in float64."""
    with _opened(path) as (file, most_bytes):
        geometry = _geometry(path, file, most_bytes)
        header = geometry.header
        slope, inter = header.get_slope_inter()
        file.seek(int(header["vox_offset"]))
        voxels = file.read(_bytes(header))
        if len(voxels) < _bytes(header):
            raise ValueError(f"it ends after {len(voxels)} of {_bytes(header)} bytes of voxels")
        file.read(1)  # at its end gzip compares the checksum
    voxels = np.frombuffer(voxels, header.get_data_dtype())
    pictures = geometry.to_pictures(voxels.reshape(header.get_data_shape(), order="F"))
    values = np.empty(geometry.shape, dtype)
    for value, picture in zip(values, pictures, strict=True):
        if slope is not None:
            picture = picture * np.float64(slope) + np.float64(inter)
        value[...] = convert(picture)
    return Volume(values, geometry)


def _write(path, values, geometry):
    if not str(path).endswith((".nii", ".nii.gz")):
        raise DataError(f"{path} must end in .nii or .nii.gz")
    source = geometry.header
    header = type(source)()
    header.set_data_dtype(values.dtype)
    for field in GEOMETRY_FIELDS:
        header[field] = source[field]
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
    nib.save(kind(geometry.to_file(values), None, header), path)
