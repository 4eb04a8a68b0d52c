"""Shows a volume as a stack of radiological pictures, and converts it back to its file's axes."""

import dataclasses
import functools
from typing import Any

import numpy as np
from nibabel import orientations

from jax_pix2pix.errors import DataError

PICTURES = orientations.axcodes2ornt(("S", "P", "L"))
SAME_GRID = 1e-3  # relative, of steps: allows for two headers' rounding
SAME_PLACE = 0.05  # voxels, of the first one: in reversed axes the rounding of all steps adds up
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
        spacing_known: whether the voxels' size is known; if not, the affine's is a placeholder.
        note: what `geometry.settled` had to settle, in words; "" where the file left nothing open.
    """

    affine: np.ndarray
    file_shape: tuple[int, int, int]
    header: Any = None
    spacing_known: bool = True
    note: str = ""

    @property
    def shape(self):
        """(slices, rows, columns)."""
        return self._by_picture(self.file_shape)

    @property
    def spacing_mm(self):
        """Millimetres between slices, rows and columns; None where unknown."""
        return self._affine_spacing if self.spacing_known else None

    def needed_spacing_mm(self, path, what):
        """The spacing, for `what` cannot do without. Raises DataError where it is unknown."""
        if not self.spacing_known:
            raise DataError(
                f"{path} does not say how large its voxels are (1 x 1 x 1 mm at an origin of 0, or "
                f"no spacing), and {what} needs that: give --spacing_mm=SLICES,ROWS,COLUMNS "
                "(config.data.given_spacing_mm, or geometry.csv in the source folder)"
            )
        return self._affine_spacing

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
        """Checks that another volume, such as labels, has the voxels of this one, in any order.

        Args:
            path, other_path: the files of the two, for the error.
            otherwise: what to do where both headers are right.

        Raises:
            DataError: it has not; the message tells how they differ.
        """
        if self._order_of(other) is None:
            mine, its = (_described(*one._in_axes_of(self)) for one in (self, other))
            what = next((what for what in mine if mine[what] != its[what]), "affine")
            order = other._letters != self._letters
            if what == "spacing" and not (self.spacing_known and other.spacing_known):
                otherwise = f"give --spacing_mm, as one does not state it, or {otherwise}"
            raise DataError(
                f"{other_path} is not on the voxels of {path}: its {what} is {its[what]}, not "
                f"{mine[what]}{self._turned(other) if order else ''}; correct the header that is "
                f"wrong, or {otherwise}"
            )

    def reordered(self, path, volume, other_path, otherwise="resample the labels"):
        """Brings another volume on the same voxels to this one's slices, rows and columns.

        Files may have their axes in another order or direction. For oblique ones near 45 degrees
        other axes may count as slices, rows and columns too.

        Args:
            volume: Volume; path, other_path and otherwise as for `check_same_grid`, which raises.

        Returns:
            values [slices, rows, columns] of this Geometry, a view.
        """
        self.check_same_grid(path, volume.geometry, other_path, otherwise)
        return orientations.apply_orientation(volume.values, self._order_of(volume.geometry))

    def by_axis(self, of_pictures):
        """Reorders values of slices, rows and columns to the axes of the file. -> float64 [3]."""
        order = np.argsort(self._orientation[:, 0])[::-1]
        values = np.empty(3)
        values[order] = of_pictures
        return values

    def _order_of(self, other):
        """How another's slices, rows and columns become this one's: nibabel's orientation [3, 2].

        None unless the two have one set of voxels, but for SAME_GRID and SAME_PLACE.
        """
        between = np.linalg.inv(self._of_pictures) @ other._of_pictures
        steps = np.rint(between[:3, :3])
        if not (np.abs(steps).sum(0) == 1).all() or not (np.abs(steps).sum(1) == 1).all():
            return None
        lengths = np.array(self.shape)
        order = np.stack([np.abs(steps).argmax(0), steps.sum(0)], 1)
        if (lengths[order[:, 0].astype(int)] != other.shape).any():
            return None
        first = np.where(steps.sum(1) < 0, lengths - 1, 0)  # a reversed axis begins at its end
        apart = np.abs(between[:3, 3] - first).max()
        same = np.abs(between[:3, :3] - steps).max() <= SAME_GRID and apart <= SAME_PLACE
        return order if same else None

    def _in_axes_of(self, other):
        """(affine, shape) of these voxels in the order and directions of another's axes."""
        turn = orientations.ornt_transform(self._orientation, other._orientation)
        shape = np.empty(3, int)
        shape[turn[:, 0].astype(int)] = self.file_shape
        affine = self.affine @ orientations.inv_ornt_aff(turn, self.file_shape)
        return affine, tuple(shape.tolist())

    def _turned(self, other):
        return f" (in the order {self._letters} of its axes, which are stored as {other._letters})"

    @property
    def _letters(self):
        return "".join(orientations.ornt2axcodes(self._orientation))

    @property
    def _of_pictures(self):
        """The affine from [slice, row, column] to mm."""
        transform = orientations.ornt_transform(self._orientation, PICTURES)
        return self.affine @ orientations.inv_ornt_aff(transform, self.file_shape)

    @property
    def _affine_spacing(self):
        return self._by_picture(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

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
        """Millimetres between slices, rows and columns; None where unknown."""
        return self.geometry.spacing_mm


def _described(affine, shape):
    """What tells two grids apart, in the order in which it is looked at: {what: text}."""
    parts = {
        "spacing": np.linalg.norm(affine[:3, :3], axis=0),
        "origin": affine[:3, 3],
        "affine": affine[:3],
    }
    return {"shape": str(shape)} | {
        what: ", ".join(f"{value + 0.0:.5g}" for value in np.ravel(values)) + " mm"
        for what, values in parts.items()
    }


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
