"""Computes surrogate doses in the same way on a CT and on a synthetic CT, and compares them.

They answer one question: how far errors in HU shift the attenuation of a photon beam and the range
of a proton beam. There is no scatter, build-up, divergence or clinical plan, so it is no treatment
plan.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy

from jax_pix2pix.metrics import gamma, proton_range
from jax_pix2pix.metrics.beams import ANGLES, GRID_PROTOCOL, BeamGrid

# Schneider et al., Phys. Med. Biol. 45 (2000) 459, with water held at 1: HU, g / cm3.
CALIBRATION = ((-1000, 0.00121), (-100, 0.93), (0, 1.0), (100, 1.076), (3000, 2.793))
MASS_ATTENUATION = 0.0494  # cm2 / g: water at 2 MeV (NIST XCOM), about the mean of a 6 MV beam
LARGEST_RADIUS_MM, SHARE = 25.0, 0.3
MARGIN_MM, PENUMBRA_MM = 7, 3


class OffCentre(NamedTuple):
    """A target off the centre: where, in shares of the body's extent along slices, rows and
    columns from its centroid; its radius in mm; the angle of its only beam."""

    shift: tuple[float, float, float]
    radius_mm: float
    angle: int


OFF_CENTRE = (
    OffCentre((0.0, -0.25, 0.0), 10, 0),
    OffCentre((0.15, 0.0, 0.25), 15, 72),
    OffCentre((-0.15, 0.2, 0.15), 5, 144),
    OffCentre((0.1, 0.25, -0.1), 10, 216),
    OffCentre((-0.1, -0.1, -0.25), 20, 288),
)
_ANGLES = ", ".join(map(str, ANGLES))
_RADII = ", ".join(str(target.radius_mm) for target in OFF_CENTRE)
PROTOCOL = (
    f"surrogate dose, not a treatment plan: {len(ANGLES)} parallel photon beams of equal fluence "
    f"in the axial plane, at {_ANGLES} degrees (0 from the front, 90 from the left), each "
    "attenuated by exp(-mu / rho x radiological depth), mu / rho "
    f"{MASS_ATTENUATION} cm2 / g for 6 MV; mass density from HU, linear between "
    f"{', '.join(f'{hu} HU: {density} g / cm3' for hu, density in CALIBRATION)} and constant "
    f"beyond; {GRID_PROTOCOL}; no scatter, build-up or divergence. Target: "
    "sphere about the mask's voxel nearest to its centroid, radius "
    f"{SHARE} x the mask's smallest extent, {LARGEST_RADIUS_MM:g} mm at most, inside the mask. "
    f"Round fields with {MARGIN_MM} mm margin and a Gaussian penumbra of sigma {PENUMBRA_MM} mm. "
    "100 %: mean over the target on the real CT, for the same fluence on both"
)
FIELDS_PROTOCOL = (
    f"{len(OFF_CENTRE)} targets off the centre, each with one beam alone: at "
    f"{', '.join(str(target.shift) for target in OFF_CENTRE)} x the body's extent (slices, rows, "
    f"columns) from its centroid, radius {_RADII} mm and {SHARE} x the smallest extent at most, "
    f"from {_ANGLES} degrees; else as dose"
)
DVH_PROTOCOL = (
    "D98, D2: dose that 98 %, 2 % of the target's voxels receive at least, interpolated linearly; "
    "differences: synthetic less real, in % of the prescription; off_centre: the difference of the "
    "mean dose without sign, mean over the targets off the centre"
)
PROTOCOLS = {
    "dose": PROTOCOL,
    "fields": FIELDS_PROTOCOL,
    "range": proton_range.PROTOCOL.format(beams=len(ANGLES))
    + "; targets: those of dose and fields",
    "gamma_local_1_1": f"{gamma.protocol(1, 1, local=True)}; mean over the fields",
    "gamma_2_2": f"{gamma.protocol(2, 2)}; of the dose",
    "delta": DVH_PROTOCOL,
}
SCORES = (
    "range.mean_mm",
    "range.p95_mm",
    "gamma_local_1_1",
    "delta_off_centre",
    *("delta_d98", "delta_d2", "delta_dmean", "delta_body_dmean"),
    "gamma_2_2",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Doses:
    """Doses of the plan with all beams, in % of the mean target dose on the real CT.

    Attributes:
        reference, evaluated: float64 on the grid, on the real and on the synthetic CT.
        target, body: bool on the grid; the body without the target.
    """

    reference: np.ndarray
    evaluated: np.ndarray
    target: np.ndarray
    body: np.ndarray

    def differences(self):
        """Synthetic minus real, in % of the prescription: {"d98", "d2", "dmean", "body_dmean"}."""
        doses = self.evaluated, self.reference
        d98, d2 = (
            [dose_at_volume(dose, self.target, percent) for dose in doses] for percent in (98, 2)
        )
        target, body = ([dose[part].mean() for dose in doses] for part in (self.target, self.body))
        pairs = {"d98": d98, "d2": d2, "dmean": target, "body_dmean": body}
        return {
            name: float(evaluated - reference) for name, (evaluated, reference) in pairs.items()
        }


class Sphere(NamedTuple):
    centre_mm: np.ndarray  # [3], from the grid's first voxel
    radius_mm: float


class _Beams(NamedTuple):
    """What is computed of one volume: dose of the plan, doses of the fields, paths of protons."""

    dose: np.ndarray
    fields: list
    paths: np.ndarray


class Dosimetry:
    """The plans on a real CT, to which synthetic CTs are compared; see PROTOCOLS.

    Attributes:
        grid: BeamGrid.
        target: bool on the grid, of the plan with all beams.
    """

    def __init__(self, ct, mask, spacing_mm):
        """ct: HU [d, h, w]; mask: bool [d, h, w], the body, not empty; spacing_mm: positive.

        Raises:
            ConfigError: a spacing is not positive.
        """
        self.grid = BeamGrid(mask, spacing_mm)
        self._central = target_sphere(self.grid)
        self._off_centre = [target_sphere(self.grid, *target[:2]) for target in OFF_CENTRE]
        self.target = inside(self.grid, self._central)
        self._reference = self._beams(ct)
        self._percent = 100 / self._reference.dose[self.target].mean()

    def scores(self, sct):
        """Compares HU [d, h, w] with the real CT.

        Returns:
            ({name of SCORES: float}, NaN where undefined; Doses).
        """
        evaluated, grid = self._beams(sct), self.grid
        percent, mask = self._percent, grid.mask & ~self.target
        doses = Doses(self._reference.dose * percent, evaluated.dose * percent, self.target, mask)
        fields = list(zip(self._reference.fields, evaluated.fields, strict=True))
        rates = [gamma.gamma_pass_rate(*pair, grid.spacing_mm, 1, 1, local=True) for pair in fields]
        means = [
            [dose[inside(grid, sphere)].mean() for dose in pair]
            for sphere, pair in zip(self._off_centre, fields, strict=True)
        ]
        errors = proton_range.errors(self._reference.paths, evaluated.paths)
        scores = {
            **{f"range.{name}": error for name, error in errors.items()},
            "gamma_local_1_1": float(np.mean(rates)),
            "delta_off_centre": float(np.mean([abs(100 * b / a - 100) for a, b in means])),
            **{f"delta_{name}": value for name, value in doses.differences().items()},
            "gamma_2_2": gamma.gamma_pass_rate(
                doses.reference, doses.evaluated, grid.spacing_mm, 2, 2
            ),
        }
        return scores, doses

    def _beams(self, hu):
        grid = self.grid
        depths = depths_of(grid.of(hu, mass_density), grid)
        power = grid.of(hu, proton_range.stopping_power)
        spheres = (self._central, *self._off_centre)
        fields = [
            photon_dose({target.angle: depths[target.angle]}, grid, sphere)
            for target, sphere in zip(OFF_CENTRE, self._off_centre, strict=True)
        ]
        dose = photon_dose(depths, grid, self._central)
        return _Beams(dose, fields, proton_range.paths(power, grid, spheres))


def mass_density(hu):
    """Converts HU to g / cm3 by CALIBRATION."""
    return np.interp(hu, *np.transpose(CALIBRATION))


def target_sphere(grid, shift=(0, 0, 0), radius_mm=LARGEST_RADIUS_MM):
    """Places a target about the voxel of the body nearest to where it is wanted: Sphere.

    Args:
        grid: BeamGrid.
        shift: from the body's centroid, in shares of its extent along slices, rows and columns.
        radius_mm: wanted; SHARE of the smallest extent at most.
    """
    voxels = np.argwhere(grid.mask) * grid.spacing_mm
    extent = voxels.max(0) - voxels.min(0) + grid.spacing_mm
    wanted = voxels.mean(0) + np.array(shift) * extent
    # Rounded, so that of voxels as near the first is taken, also where a spacing is float32.
    centre = voxels[np.round(np.square(voxels - wanted).sum(1), 2).argmin()]
    return Sphere(centre, min(radius_mm, SHARE * extent.min()))


def inside(grid, sphere):
    """Finds the body's voxels in a sphere: bool on the grid."""
    offsets = zip(grid.axes, sphere.centre_mm, strict=True)
    squares = sum(np.square(x) for x in np.ix_(*(axis - at for axis, at in offsets)))
    return grid.mask & (squares <= sphere.radius_mm**2)


def depths_of(density, grid, angles=ANGLES):
    """Computes the mass per area that beams pass: g / cm3 on the grid -> {angle: g / cm2}."""
    return {angle: grid.rays[angle].depth(density) / 10 for angle in angles}


def photon_dose(depths, grid, sphere):
    """Computes the mean dose of parallel beams on a sphere, as a share of what enters the body.

    Args:
        depths: {angle: g / cm2 on the grid}.
        grid: BeamGrid.
        sphere: Sphere.

    Returns:
        float64 on the grid.
    """
    z, y, x = (axis - at for axis, at in zip(grid.axes, sphere.centre_mm, strict=True))
    dose = np.zeros(grid.mask.shape)
    for angle, depth in depths.items():
        along = grid.rays[angle].along
        across = along[0] * x[None] - along[1] * y[:, None]
        edge = (
            np.hypot(z[:, None, None], across[None]) - sphere.radius_mm - MARGIN_MM
        ) / PENUMBRA_MM
        dose += scipy.special.ndtr(-edge) * np.exp(-MASS_ATTENUATION * depth)
    return np.where(grid.mask, dose / len(depths), 0)


def dose_at_volume(dose, structure, percent):
    """Computes the dose that `percent` of a structure, bool [d, h, w], receives at least."""
    return float(np.percentile(dose[structure], 100 - percent))


def dvh(dose, structure, levels):
    """Computes the dose-volume histogram: % of a structure that receives at least each level."""
    doses = np.sort(dose[structure])
    return 100 * (1 - np.searchsorted(doses, levels) / doses.size)
