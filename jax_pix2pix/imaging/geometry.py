"""Settles what a file leaves open about its voxels: a spacing that is not stated, or stated twice.

A spacing counts as unknown where the format has none in its header (MetaImage without
ElementSpacing and ElementSize), and where voxels of exactly 1 mm along anatomical axes begin at an
origin of exactly 0, with LARGE voxels or more along two axes. Programs write this for arrays that
have lost their header; LiTS has twenty such CTs. A template of 1 mm has an origin, or is smaller.
"""

import dataclasses

import numpy as np
from nibabel import orientations

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging.volume import SPACING_MM, Geometry, check_affine

LARGE = 256
FORMS = ("agreed", "sform", "qform")
UNKNOWN = "spacing unknown: surface distances and volumes in mm are not given"
WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclasses.dataclass(frozen=True)
class Given:
    """What a user says about files that leave it open. Files that state it keep their own.

    Attributes:
        spacing_mm: between slices (feet to head), rows and columns; None: not known.
        axes: where the three axes of a file run to, such as "LPS"; "" where not known.
        form: which of a NIfTI's two affines counts where they differ, of FORMS.
        series: of a DICOM folder with several volumes, which; see `dicom.read_series`.
    """

    spacing_mm: tuple | None = None
    axes: str = ""
    form: str = FORMS[0]
    series: str = ""


NOTHING = Given()
OF_A_FILE = ("spacing_mm", "axes", "geometry")
OPTIONS = (*OF_A_FILE, "series")  # of `given`


def given(spacing_mm=None, axes=None, geometry=None, series=None):
    """Makes a Given of options as users write them; what is empty is not known.

    Args:
        spacing_mm: three numbers, or text such as "2.5,0.7,0.7".
        axes, geometry, series: text; geometry is Given's form.

    Raises:
        ConfigError: names the option that does not fit.
    """
    if axes and sorted(WORLD.get(letter, (letter,))[0] for letter in axes) != [0, 1, 2]:
        raise ConfigError(f"axes={axes}: use three of R or L, A or P, S or I, such as LPS")
    form = geometry or FORMS[0]
    if form not in FORMS:
        raise ConfigError(f"geometry={geometry}: use {' or '.join(FORMS[1:])}")
    return Given(_spacing(spacing_mm), axes or "", form, series or "")


def _spacing(value):
    if value is None or not len(value):
        return None
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    low, high = SPACING_MM
    try:
        found = tuple(map(float, words))
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(low <= mm <= high for mm in found):
        shown = value if isinstance(value, str) else ",".join(map(str, value))
        raise ConfigError(
            f"spacing_mm={shown}: use three numbers of {low:g} to {high:g}, between slices, rows "
            "and columns, as in 2.5,0.7,0.7"
        )
    return found


def settled(path, affine, shape, header=None, user=NOTHING, stated=True, note=""):
    """Makes the Geometry of what a file states, and of what the user has given beside it.

    Args:
        path: for errors.
        affine, shape, header: of Geometry, as the file has them.
        user: Given.
        stated: whether the file states a spacing at all.
        note: what else a user is to know, in words.

    Raises:
        DataError: no scan has such an affine.
    """
    check_affine(path, affine)
    if stated and not _is_default(affine, shape):
        return Geometry(affine, shape, header, note=note)
    if user.axes:
        affine, header = affine_of(user.axes, np.linalg.norm(affine[:3, :3], axis=0)), None
    notes = [note] if note else []
    unknown = "; ".join([*notes, UNKNOWN])
    geometry = Geometry(affine, shape, header, spacing_known=False, note=unknown)
    if user.spacing_mm is None:
        return geometry
    steps = affine.copy()
    steps[:3, :3] *= geometry.by_axis(user.spacing_mm) / np.linalg.norm(affine[:3, :3], axis=0)
    notes.append(f"spacing as given, {by(user.spacing_mm)} mm")
    return Geometry(steps, shape, note="; ".join(notes))


def affine_of(axes, spacing_mm):
    """Makes the affine of axes such as "LPS", of this spacing along them, with its origin at 0."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(axes):
        world, sign = WORLD[letter]
        affine[world, axis] = sign * spacing_mm[axis]
    return affine


def towards(affine):
    """Letters of where the axes run to, such as LPS."""
    return "".join(orientations.aff2axcodes(affine))


def by(spacing_mm):
    """Writes a spacing, such as 2.5 x 0.7 x 0.7."""
    return " x ".join(f"{mm:.4g}" for mm in spacing_mm)


def _is_default(affine, shape):
    """Whether an affine is what programs write for an array without one; see above."""
    steps = np.abs(affine[:3, :3])
    permutes = ((steps == 0) | (steps == 1)).all() and (steps.sum(0) == 1).all()
    large = sum(length >= LARGE for length in shape) >= 2
    return bool(permutes and large and (affine[:3, 3] == 0).all())
