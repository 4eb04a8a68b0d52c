"""Reads and writes NIfTI, .nii and .nii.gz: checks a header before it allocates voxels."""

import contextlib
import gzip
import itertools
import os

import nibabel as nib
import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats.voxels import check_shape, to_volume, writing
from jax_pix2pix.imaging.geometry import NOTHING, affine_of, by, settled, towards
from jax_pix2pix.imaging.memory import DEFLATE_RATIO
from jax_pix2pix.imaging.safe_io import unreadable
from jax_pix2pix.imaging.volume import check_affine
from jax_pix2pix.safety.safe_files import open_to_read

HEADERS = {  # by the first field, the header's length; with the signature
    348: (nib.Nifti1Header, b"n+1"),
    540: (nib.Nifti2Header, b"n+2"),
}
UNITS = {0: "an unknown unit", 1: "metres", 2: "millimetres", 3: "micrometres"}
COMPRESSION = 1  # level 0 to 9: higher ones take several times as long and save a tenth
MAX_OFFSET = 2**26  # bytes before the voxels: extensions, of some kB
SAME_SPACING = 0.01  # relative; of the two affines of a file
SAME_PLACE = 0.5  # voxels
UNSTATED = b"spacing unknown"  # what is written into descrip where no spacing is known
GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)


def read_geometry(path, user):
    """Reads and checks a file's Geometry; see `volume_file.read_geometry`."""
    with _opened(path) as (file, most_bytes):
        return _geometry_and_header(path, file, most_bytes, user)[0]


def read(path, dtype, convert, user):
    """Reads a Volume of dtype; `convert` is a function of `voxels`."""
    with _opened(path) as (file, most_bytes):
        geometry, header = _geometry_and_header(path, file, most_bytes, user)
        slope, inter = header.get_slope_inter()
        file.seek(int(header["vox_offset"]))
        content = file.read(_bytes(header))
        if len(content) < _bytes(header):
            raise ValueError(f"it ends after {len(content)} of {_bytes(header)} bytes of voxels")
        file.read(1)  # gzip compares the checksum at the end
    voxels = np.frombuffer(content, header.get_data_dtype())
    voxels = voxels.reshape(geometry.file_shape, order="F")
    if slope is None:
        return to_volume(path, geometry, voxels, dtype, convert)

    def scaled(path, picture):
        return convert(path, picture * np.float64(slope) + np.float64(inter))

    return to_volume(path, geometry, voxels, dtype, scaled)


def write(path, voxels, geometry):
    """Writes voxels in the file's axes."""
    source = geometry.header
    if not isinstance(source, nib.Nifti1Header):  # Nifti2Header is a subclass
        source = scanner_header(geometry.affine, geometry.file_shape)
    header = type(source)()
    header.set_data_dtype(voxels.dtype)
    for field in GEOMETRY_FIELDS:
        header[field] = source[field]
    mark_unknown(header, geometry)
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(voxels.reshape(source.get_data_shape()), None, header)
    with writing(path) as file:
        if not os.fspath(path).lower().endswith(".gz"):
            image.to_stream(file)
            return
        # Neither name nor time, so that equal voxels become equal files.
        with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as compressed:
            image.to_stream(compressed)


def mark_unknown(header, geometry):
    """Says in a header that no spacing is known, which readers here then know too."""
    if not geometry.spacing_known:
        header["descrip"] = UNSTATED


def scanner_header(affine, shape):
    """Makes a header whose affine leads to scanner coordinates, in mm."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    return header


def geometry_of(path, header, user=NOTHING):
    """Makes the Geometry of a header, after looking at its affines. Raises DataError."""
    affine, kept, note = _affine(path, header, user)
    shape = tuple(header.get_data_shape()[:3])
    stated = header["descrip"].item() != UNSTATED
    return settled(path, affine, shape, kept, user, stated, note)


def geometry_of_image(name, header, user):
    """`geometry_of` of an image in memory; None if its header is not NIfTI's."""
    if isinstance(header, nib.Nifti1Header):
        return geometry_of(name, header.copy(), user)


@contextlib.contextmanager
def _opened(path):
    """Yields the uncompressed file and the most bytes it can hold; turns errors into DataError."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_to_read(path))
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


def _geometry_and_header(path, file, most_bytes, user):
    """Reads the header from an opened file. Returns (Geometry, header)."""
    start = file.read(4)
    length = min(int.from_bytes(start, order) for order in ("little", "big"))
    if length not in HEADERS:
        raise ValueError("it does not begin as NIfTI does")
    kind, signature = HEADERS[length]
    header = kind(start + file.read(length - 4), check=False)
    if not header["magic"].item().startswith(signature):
        raise ValueError("it has not the signature of NIfTI in one file")
    _check_voxels(path, header, most_bytes)
    return geometry_of(path, header, user), header


def _check_voxels(path, header, most_bytes):
    count = int(header["dim"][0])
    shape = header["dim"][1 : 1 + max(count, 0)].tolist()
    if header.get_data_dtype().kind not in "iuf":
        raise DataError(f"{path} holds {header.get_data_dtype()}: save one number a voxel")
    shape = tuple(shape[:3] if shape[3:] == [1] else shape)
    check_shape(path, shape, header.get_data_dtype())
    header.get_slope_inter()  # raises if they are invalid
    offset = float(header["vox_offset"])
    if not int(header["sizeof_hdr"]) + 4 <= offset <= MAX_OFFSET:
        raise ValueError(f"its voxels begin at byte {offset:g}")
    if offset + _bytes(header) > most_bytes:
        raise ValueError(f"no {_bytes(header)} bytes for the shape {shape}")


def _affine(path, header, user):
    """Finds the affine that counts. -> (affine, header to write it with again or None, note)."""
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1  # the standard reads 0 as 1
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):  # many files state no unit and mean millimetres
        raise DataError(f"{path} is in {UNITS.get(unit, 'no unit of length')}: convert it to mm")
    forms = {
        name: np.asarray(read(), np.float64)
        for name, read in (("sform", header.get_sform), ("qform", header.get_qform))
        if header[f"{name}_code"] > 0
    }
    if not forms:
        return _without_affine(path, header, user)
    for affine in forms.values():
        check_affine(path, affine)
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    told = {name: _told(affine) for name, affine in forms.items()}
    if len(forms) == 2:
        agree = _agree(forms["sform"], forms["qform"], header.get_data_shape()[:3])
    else:  # pixdim is the qform's spacing, and should be the sform's
        (name,) = forms
        told["pixdim"] = f"{by(pixdim)} mm"
        agree = _same_spacing(_spacing(forms[name]), pixdim)
    if agree:
        return next(iter(forms.values())), header, ""
    if user.form not in forms:
        differ = ", but ".join(f"{text} in its {name}" for name, text in told.items())
        raise DataError(
            f"{path} has voxels of {differ}: say which is right by "
            f"{' or '.join(f'--geometry={name}' for name in forms)} (config.data.geometry, or "
            "geometry.csv in the source folder)"
        )
    others = ", ".join(name for name in told if name != user.form)
    return forms[user.form], None, f"placed by its {user.form}, from which its {others} differs"


def _without_affine(path, header, user):
    """As `_affine`, of a file that says how large its voxels are, but not where they lie."""
    if not user.axes:
        raise DataError(
            f"{path} does not say where the patient's left is (qform_code and sform_code are 0): "
            "set its affine, or say where its axes run to, such as --axes=LPS "
            "(config.data.given_axes, or geometry.csv in the source folder)"
        )
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    note = f"axes as given, {user.axes}, and the first voxel at 0"
    return affine_of(user.axes, pixdim), None, note


def _agree(sform, qform, shape):
    """Whether two affines have one spacing, and each corner of the volume in one place.

    A quaternion in float32 turns the farthest corner of an oblique CT by up to half a voxel.
    """
    corners = np.array(list(itertools.product(*((0, length - 1) for length in shape), [1])))
    between = np.linalg.inv(sform) @ qform
    apart = np.abs(corners @ between.T - corners)[:, :3].max()
    return _same_spacing(_spacing(sform), _spacing(qform)) and apart <= SAME_PLACE


def _same_spacing(one, other):
    return bool((np.abs(one - other) <= SAME_SPACING * one).all())


def _told(affine):
    origin = ", ".join(f"{mm:.4g}" for mm in affine[:3, 3])
    return f"{by(_spacing(affine))} mm from ({origin}) mm towards {towards(affine)}"


def _spacing(affine):
    return np.linalg.norm(affine[:3, :3], axis=0)


def _bytes(header):
    return int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
