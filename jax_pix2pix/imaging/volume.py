"""Shows a volume as a stack of radiological pictures, and converts it back to its file's axes."""

import dataclasses
import functools
from typing import Any

import numpy as np
from nibabel import orientations

from jax_pix2pix.errors import DataError

PICTURES = orientations.axcodes2ornt(("S", "P", "L"))
SAME_GRID = 1e-3  # voxels, or relative: allows for two headers' rounding to float32
SPACING_MM = (0.01, 50.0)
FLATTEST = 0.1  # volume of the unit vectors along the axes: 1 where they are perpendicular


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """Tells where a file's voxels are, and how its axes become slices, rows and columns.

    Slices run from feet to head, rows from front to back and columns from the patient's right to
    left: the picture a radiologist sees, with the patient's left at its right. Nothing is
    resampled: the axes of an oblique scan count as the nearest anatomical ones.

    Attributes:
        affine: float64 [4, 4]: from the file's voxel indices to mm towards right, front and head.
            Finite and not singular.
        file_shape: voxels along the three axes of the file.
        header: what else the file's format says, for files that are written in the same format: a
            NIfTI header, `metaimage.Axes`, or None.
    """

    affine: np.ndarray
    file_shape: tuple[int, int, int]
    header: Any = None

    @property
    def shape(self):
        """(slices, rows, columns)."""
        return self._by_picture(self.file_shape)

    @property
    def spacing_mm(self):
        """Millimetres between slices, rows and columns."""
        return self._by_picture(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def tilt_degrees(self):
        """The largest angle between an axis of the file and the anatomical axis it counts as."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        anatomical = self._orientation[:, 0].astype(int)
        cosines = np.abs(directions[anatomical, np.arange(3)])
        return float(np.degrees(np.arccos(min(1.0, cosines.min()))))

    def to_pictures(self, voxels):
        """A view [slices, rows, columns] of voxels in the file's axes and shape."""
        transform = orientations.ornt_transform(self._orientation, PICTURES)
        return orientations.apply_orientation(voxels, transform)

    def to_file(self, values):
        """A view, in the file's axes and shape, of values [slices, rows, columns]."""
        if values.shape != self.shape:
            raise ValueError(f"the shape is {values.shape}, not {self.shape}")
        transform = orientations.ornt_transform(PICTURES, self._orientation)
        return orientations.apply_orientation(values, transform)

    def check_same_grid(self, path, other, other_path, otherwise="resample the labels"):
        """Checks that another volume, such as labels, lies on the voxels of this one.

        Args:
            path, other_path: the files of the two, for the error.
            otherwise: what to do where both headers are right.

        Raises:
            DataError: it does not; the message tells how they differ.
        """
        if other.file_shape == self.file_shape:
            between = np.linalg.inv(self.affine) @ other.affine
            if np.abs(between - np.eye(4)).max() <= SAME_GRID:
                return
        for what in ("shape", "orientation", "spacing", "origin", "affine"):
            mine, its = self._describe(what), other._describe(what)
            if mine != its:
                break
        raise DataError(
            f"{other_path} is not on the voxels of {path}: its {what} is {its}, not {mine}; "
            f"correct the header that is wrong, or {otherwise}"
        )

    def _describe(self, what):
        values = {
            "shape": self.file_shape,
            "orientation": "".join(orientations.ornt2axcodes(self._orientation)),
            "spacing": np.linalg.norm(self.affine[:3, :3], axis=0),
            "origin": self.affine[:3, 3],
            "affine": self.affine[:3],
        }[what]
        if isinstance(values, np.ndarray):
            return ", ".join(f"{value + 0.0:.5g}" for value in values.ravel()) + " mm"
        return str(values)

    @functools.cached_property
    def _orientation(self):
        return orientations.io_orientation(self.affine)

    def _by_picture(self, of_axes):
        """Reorders values by axis of the file to (slices, rows, columns)."""
        order = np.argsort(self._orientation[:, 0])[::-1]  # S, then A or P, then R or L
        return tuple(of_axes[axis] for axis in order)


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    values: np.ndarray  # [slices, rows, columns], as Geometry describes them
    geometry: Geometry

    @property
    def spacing_mm(self):
        """Millimetres between slices, rows and columns."""
        return self.geometry.spacing_mm


def check_affine(path, affine):
    """Raises DataError for a Geometry's affine that no scan has."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_MM
    if not np.isfinite(affine).all() or not ((low <= spacing) & (spacing <= high)).all():
        raise DataError(
            f"{path} has voxels of {' x '.join(f'{mm:g}' for mm in spacing)} mm, outside of "
            f"{low:g} to {high:g} mm: correct its affine"
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < FLATTEST:
        raise DataError(f"{path} has a singular affine, of axes in one plane: correct it")
