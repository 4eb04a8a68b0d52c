"""Reads and writes MetaImage, the format of ITK and of many challenges.

A .mha file holds its voxels; a .mhd file may name another one in its folder, .raw or .zraw.
"""

import contextlib
import dataclasses
import os
import re
import zlib
from pathlib import Path

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

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# The format has several names for some fields, and defaults for absent ones.
ALIASES = {
    "Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix", "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip
DEFAULTS = {
    "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
    "BinaryDataByteOrderMSB": "False", "CompressedData": "False",
}  # fmt: skip
# Fields that are read in one form only.
ONLY = {
    "BinaryData": ("True", "save it in binary"),
    "ElementNumberOfChannels": ("1", "save one number a voxel"),
    "HeaderSize": ("0", "save it anew"),
    "DistanceUnits": ("mm", "convert it to mm"),
}
LOCAL = "LOCAL"  # the voxels follow the header
YES = ("true", "t", "1", "yes", "y")


@dataclasses.dataclass(frozen=True, eq=False)
class Axes:
    """Spacing and direction as stored: their product, in an affine, would lose their exact bits.

    Attributes:
        spacing: float64 [3], mm along the axes of the file.
        direction: float64 [3, 3]: each column is the direction of an axis, as left, back, head.
    """

    spacing: np.ndarray
    direction: np.ndarray


def read_geometry(path, user):
    """Reads and checks a file's Geometry; see `volume_file.read_geometry`."""
    with _opened(path, user) as (geometry, *_):
        return geometry


def read(path, dtype, convert, user):
    """Reads a Volume of dtype; `convert` is a function of `voxels`."""
    with _opened(path, user) as (geometry, stored, file):
        voxels = text_header.read_voxels(file, stored)
    return to_volume(path, geometry, voxels, dtype, convert)


def voxel_file(path):
    """Finds the file beside a .mhd that holds its voxels; None if they are in the file itself."""
    with text_header.opened(path, "a MetaImage") as file:
        return _voxel_file(path, _fields(file))


def write(path, voxels, geometry):
    """Writes voxels in the file's axes: compressed in a .mha, raw in a .raw beside a .mhd."""
    axes = geometry.header if isinstance(geometry.header, Axes) else _axes(geometry.affine)
    content = text_header.little_endian(voxels)
    raw = Path(path).with_suffix(".raw") if _is_mhd(path) else None
    if raw is None:
        content = zlib.compress(content, COMPRESSION)
    names = {np.dtype(code): name for name, code in reversed(TYPES.items())}
    spacing = " ".join(text_header.text_of(axes.spacing))
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(raw is None),
        **({} if raw else {"CompressedDataSize": str(len(content))}),
        "TransformMatrix": " ".join(text_header.text_of(axes.direction.T)),
        "Offset": " ".join(text_header.text_of((TO_RAS @ geometry.affine)[:3, 3])),
        **({"ElementSpacing": spacing} if geometry.spacing_known else {}),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": names[voxels.dtype],
        "ElementDataFile": raw.name if raw else LOCAL,  # must be last
    }
    if raw:  # complete before a header names it
        with writing(raw) as file:
            file.write(content)
        content = b""
    with writing(path) as file:
        file.writelines(f"{key} = {value}\n".encode() for key, value in fields.items())
        file.write(content)


def _axes(affine):
    steps = (TO_RAS @ affine)[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    return Axes(spacing, steps / spacing)


@contextlib.contextmanager
def _opened(path, user):
    """Yields (Geometry, Stored, the file with the voxels, at the byte where they begin)."""
    with text_header.opened(path, "a MetaImage") as file:
        fields = _fields(file)
        stored = _stored(path, fields)
        geometry = _geometry(path, fields, stored.shape, user)
        beside = _voxel_file(path, fields)
        if beside is None:
            text_header.check_length(file, stored)
            yield geometry, stored, file
        else:
            with _opened_voxels(path, beside) as voxels:
                text_header.check_length(voxels, stored)
                yield geometry, stored, voxels


def _opened_voxels(path, beside):
    # Links of both may lead to one folder; one that leads elsewhere may show a file of yours.
    folder, file = os.path.dirname(os.path.realpath(path)), os.path.realpath(beside)
    if os.path.dirname(file) != folder:
        raise DataError(f"{beside} is a link out of the folder of {path}: put the file there")
    return text_header.opened(file, f"the voxels of {path}", folder)


def _is_mhd(path):
    return os.fspath(path).lower().endswith(".mhd")


def _voxel_file(path, fields):
    """Finds the `voxel_file` that the fields name."""
    name = fields["ElementDataFile"]
    if name.upper() == LOCAL:
        return None
    if not _is_mhd(path):
        raise DataError(
            f"{path} has ElementDataFile = {shown(name)} in its header: save header and voxels in "
            "one file, or call it .mhd"
        )
    # LIST, a pattern with numbers after it, and a path are refused.
    if not re.fullmatch(r"[^/\\%:]+", name) or name.split()[0] == "LIST" or name in (".", ".."):
        raise DataError(
            f"{path} has ElementDataFile = {shown(name)} in its header: save the voxels in one "
            "file, in the same folder, and put its name there"
        )
    return Path(path).with_name(os.fsdecode(name.encode("latin-1")))


def _fields(file):
    """Reads the fields of a header up to the last one; leaves the file after it."""
    fields = dict(DEFAULTS)
    lines = text_header.lines(file)
    while "ElementDataFile" not in fields:
        key, equals, value = map(str.strip, next(lines).partition("="))
        if not equals:
            raise ValueError("it does not begin as MetaImage does")
        fields[ALIASES.get(key, key)] = value
    return fields


def _stored(path, fields):
    for key, (only, remedy) in ONLY.items():
        if fields.get(key, only).lower() != only.lower():
            raise DataError(f"{path} has {key} = {shown(fields[key])} in its header: {remedy}")
    if fields["ElementType"] not in TYPES:
        raise DataError(f"{path} holds {shown(fields['ElementType'])}: save one number a voxel")
    order = ">" if fields["BinaryDataByteOrderMSB"].lower() in YES else "<"
    stored = Stored(
        shape=integers(fields["DimSize"]),
        dtype=np.dtype(order + TYPES[fields["ElementType"]]),
        compressed=fields["CompressedData"].lower() in YES,
    )
    check_shape(path, stored.shape, stored.dtype)
    return stored


def _geometry(path, fields, shape, user):
    # The size of a voxel counts as the distance to the next, as it does for ITK.
    stated = fields.get("ElementSpacing", fields.get("ElementSize"))
    spacing = numbers(stated or "1 1 1", 3)
    axes = Axes(spacing, numbers(fields["TransformMatrix"], (3, 3)).T)
    if not (axes.spacing > 0).all():
        raise ValueError(f"its ElementSpacing is {shown(stated)}")
    affine = np.eye(4)
    affine[:3, :3] = axes.direction * axes.spacing
    affine[:3, 3] = numbers(fields["Offset"], 3)
    return settled(path, TO_RAS @ affine, shape, axes, user, stated=stated is not None)
