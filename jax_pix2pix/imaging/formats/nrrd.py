"""Reads and writes NRRD files that hold their voxels, .nrrd: the format of 3D Slicer."""

import gzip

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats import text_header
from jax_pix2pix.imaging.formats.text_header import (
    COMPRESSION,
    TO_RAS,
    Stored,
    integers,
    numbers,
    shown,
)
from jax_pix2pix.imaging.formats.voxels import check_shape, to_volume, writing
from jax_pix2pix.imaging.geometry import settled

_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("unsigned char", "uchar", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("unsigned short", "ushort", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("unsigned int", "uint", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long",
           "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
TYPES = {name: code for code, names in _NAMES.items() for name in names}
ENCODINGS = {"raw": False, "gzip": True, "gz": True}  # whether voxels are compressed
SPACES = {  # signs that turn the axes to right, front and head
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip

UNSTATED = "spacing:=unknown"  # a key and value of our own: the directions hold a placeholder


def read_geometry(path, user):
    """Reads and checks a file's Geometry; see `volume_file.read_geometry`."""
    with text_header.opened(path, "NRRD") as file:
        return _header(path, file, user)[0]


def read(path, dtype, convert, user):
    """Reads a Volume of dtype; `convert` is a function of `voxels`."""
    with text_header.opened(path, "NRRD") as file:
        geometry, stored = _header(path, file, user)
        voxels = text_header.read_voxels(file, stored)
    return to_volume(path, geometry, voxels, dtype, convert)


def write(path, voxels, geometry):
    """Writes voxels in the file's axes, compressed."""
    names = {np.dtype(code): names[-1] for code, names in _NAMES.items()}
    affine = TO_RAS @ geometry.affine
    fields = {
        "type": names[voxels.dtype],
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": " ".join(map(_vector, affine[:3, :3].T)),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip",
        "space origin": _vector(affine[:3, 3]),
    }
    content = gzip.compress(text_header.little_endian(voxels), COMPRESSION, mtime=0)
    with writing(path) as file:
        file.write(b"NRRD0004\n")
        file.writelines(f"{key}: {value}\n".encode() for key, value in fields.items())
        if not geometry.spacing_known:
            file.write(f"{UNSTATED}\n".encode())
        file.write(b"\n" + content)


def _vector(values):
    return f"({','.join(text_header.text_of(values))})"


def _header(path, file, user):
    """Reads (Geometry, Stored) from an opened file; leaves it where the voxels begin."""
    lines = text_header.lines(file)
    if not next(lines).startswith("NRRD000"):
        raise ValueError("it does not begin as NRRD does")
    fields, stated = {}, True
    for line in lines:
        if not line:
            break
        stated &= line != UNSTATED
        key, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[key.lower()] = value.strip()
    _check(path, fields)
    order = ">" if fields.get("endian", "").lower() == "big" else "<"
    stored = Stored(
        shape=integers(fields["sizes"]),
        dtype=np.dtype(order + TYPES[fields["type"].lower()]),
        compressed=ENCODINGS[fields["encoding"].lower()],
    )
    check_shape(path, stored.shape, stored.dtype)
    text_header.check_length(file, stored)
    affine = np.eye(4)
    affine[:3, :3] = _vectors(fields["space directions"], (3, 3)).T
    affine[:3, 3] = _vectors(fields["space origin"], 3)
    affine = np.diag([*SPACES[fields["space"].lower()], 1.0]) @ affine
    return settled(path, affine, stored.shape, user=user, stated=stated), stored


def _check(path, fields):
    """Raises DataError or KeyError for fields that are missing or have unsupported values."""
    for key in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise DataError(
                f'{path} has "{key}: {shown(fields[key])}" in its header: save header and voxels '
                "in one file"
            )
    if fields["type"].lower() not in TYPES:
        raise DataError(f"{path} holds {shown(fields['type'])}: save one number a voxel")
    if fields["encoding"].lower() not in ENCODINGS:
        encoding = shown(fields["encoding"])
        raise DataError(f"{path} has the encoding {encoding}: save it as raw or gzip")
    space = fields.get("space", "")
    if space.lower() not in SPACES:
        raise DataError(
            f'{path} does not say where the patient\'s left is (space is "{shown(space)}"): save '
            "it in left-posterior-superior"
        )
    if missing := [key for key in ("space directions", "space origin") if key not in fields]:
        raise DataError(
            f'{path} does not say where its voxels are (it has no "{missing[0]}"): save it with '
            "space directions, which hold the spacing, and an origin"
        )
    if set(fields.get("space units", "").replace('"', " ").split()) - {"mm"}:
        raise DataError(f"{path} is in {shown(fields['space units'])}: convert it to mm")


def _vectors(text, shape):
    return numbers(text.replace("(", " ").replace(")", " ").replace(",", " "), shape)
