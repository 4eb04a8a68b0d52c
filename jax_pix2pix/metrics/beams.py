"""Follows parallel beams in the axial plane through a body: the grid of a dose, and its rays."""

import functools

import numpy as np
import scipy

from jax_pix2pix.errors import ConfigError

ANGLES = (0, 72, 144, 216, 288)  # degrees; 0 comes from the front, 90 from the patient's left
GRID_MM = 2  # the longest step of a grid whose voxels are joined
_SLICES = 16  # traced at once

GRID_PROTOCOL = (
    f"computed on means over whole blocks of voxels, of as many along each axis as keep within "
    f"{GRID_MM} mm, in the body's bounding box; nothing attenuates outside the body mask"
)


class BeamGrid:
    """The grid on which a body is irradiated; see GRID_PROTOCOL.

    Attributes:
        mask: bool [d, h, w], blocks of which at least half are body.
        spacing_mm: between slices, rows and columns of the grid.
    """

    def __init__(self, mask, spacing_mm):
        """mask: bool [d, h, w], the body, not empty; spacing_mm: positive, of its voxels.

        Raises:
            ConfigError: a spacing is not positive.
        """
        if len(spacing_mm) != 3 or not all(step > 0 for step in spacing_mm):
            raise ConfigError(f"spacing_mm is {spacing_mm}: a dose needs three positive distances")
        (self._box,) = scipy.ndimage.find_objects(mask.view(np.uint8))
        self._body = mask[self._box]
        self._blocks = tuple(max(1, int(GRID_MM / step + 1e-6)) for step in spacing_mm)
        self.spacing_mm = tuple(
            float(step) * n for step, n in zip(spacing_mm, self._blocks, strict=True)
        )
        self.mask = self._means(self._body.astype(np.float32)) >= 0.5
        if not self.mask.any():  # a body thinner than half a block
            self.mask = self._means(self._body.astype(np.float32)) > 0

    def of(self, hu, convert):
        """Means over blocks of convert(HU), 0 outside the body: HU [d, h, w] -> float64 of the
        grid."""
        return self._means(np.where(self._body, convert(hu[self._box]), 0))

    @functools.cached_property
    def axes(self):
        """Places of slices, rows and columns in mm, from the first block's centre."""
        sizes = zip(self.mask.shape, self.spacing_mm, strict=True)
        return tuple(np.arange(size) * step for size, step in sizes)

    @functools.cached_property
    def rays(self):
        """{angle of ANGLES: Rays}."""
        return {angle: Rays(self.mask.shape[1:], self.spacing_mm[1:], angle) for angle in ANGLES}

    def _means(self, values):
        pads = [(0, -size % n) for size, n in zip(values.shape, self._blocks, strict=True)]
        values = np.pad(values, pads)
        for axis, n in enumerate(self._blocks):
            starts = np.arange(0, values.shape[axis], n)
            values = np.add.reduceat(values, starts, axis, dtype=np.float64) / n
        return values


class Rays:
    """Parallel rays in one direction through planes of one shape.

    Attributes:
        along: unit vector (rows, columns), the direction of the beam.
        step_mm: between rays and between the samples on them.
    """

    def __init__(self, shape, spacing_mm, angle):
        """shape, spacing_mm: of rows and columns; angle: degrees, as ANGLES."""
        self.along = np.cos(np.radians(angle)), -np.sin(np.radians(angle))
        spacing_mm = np.asarray(spacing_mm)
        self.step_mm = float(spacing_mm.min())
        reach_mm = np.linalg.norm((np.array(shape) + 1) * spacing_mm)
        # Rounded: a spacing from a file is float32, and one more ray would shift all of them.
        self._count = int(np.ceil(round(reach_mm / self.step_mm, 3))) + 1
        self._middle, self._middle_mm = (
            (self._count - 1) / 2,
            (np.array(shape) - 1) / 2 * spacing_mm,
        )
        self._turn = np.array([self.along, (-self.along[1], self.along[0])])
        square = (self._count, self._count)
        rays = (np.moveaxis(np.indices(square), 0, -1) - self._middle) * self.step_mm
        self._sample = _bilinear((rays @ self._turn + self._middle_mm) / spacing_mm, shape)
        pixels = np.moveaxis(np.indices(shape), 0, -1) * spacing_mm
        self._back = _bilinear(np.stack(self.places(pixels), -1), square)

    def places(self, points_mm):
        """(samples along, rays across) of points (rows, columns) in mm [..., 2]: floats [...]."""
        places = (points_mm - self._middle_mm) @ self._turn.T / self.step_mm + self._middle
        return places[..., 0], places[..., 1]

    def passed(self, volume):
        """Integrates a volume [d, h, w] from where each ray begins to each of its samples.

        Returns:
            Value x mm, float64 [samples along, rays across, d].
        """
        samples = self._sample @ volume.reshape(len(volume), -1).T
        samples = samples.reshape(self._count, self._count, -1)
        return (np.cumsum(samples, 0) - samples / 2) * self.step_mm

    def depth(self, volume):
        """Integrates a volume [d, h, w] up to each voxel's centre: value x mm [d, h, w]."""
        depth = np.empty(volume.shape)
        for start in range(0, len(volume), _SLICES):
            passed = self.passed(volume[start : start + _SLICES])
            part = depth[start : start + _SLICES]
            part[...] = (self._back @ passed.reshape(self._count**2, -1)).T.reshape(part.shape)
        return depth


def _bilinear(places, shape):
    """Interpolates in a plane, zero outside it, by a sparse matrix [places, pixels]."""
    places = np.reshape(places, (-1, 2))
    low = np.floor(places).astype(int)
    share = places - low
    matrix = scipy.sparse.csr_array((len(places), shape[0] * shape[1]))
    for row in (0, 1):
        for column in (0, 1):
            at = low + np.array((row, column))
            weight = np.prod(np.where((row, column), share, 1 - share), axis=1)
            inside = np.flatnonzero(((at >= 0) & (at < shape)).all(1))
            pixel = at[inside, 0] * shape[1] + at[inside, 1]
            matrix += scipy.sparse.csr_array((weight[inside], (inside, pixel)), shape=matrix.shape)
    return matrix
