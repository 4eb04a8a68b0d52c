"""Computes a surrogate photon dose in the same way on a CT and on a synthetic CT.

It answers one question: how far errors in HU shift the attenuation of a beam. It has no scatter,
build-up, divergence or clinical plan, so it is not a treatment plan.
"""

import dataclasses

import numpy as np
import scipy

from jax_pix2pix.errors import ConfigError

# Schneider et al., Phys. Med. Biol. 45 (2000) 459, with water held at 1: HU, g / cm3.
CALIBRATION = ((-1000, 0.00121), (-100, 0.93), (0, 1.0), (100, 1.076), (3000, 2.793))
MASS_ATTENUATION = 0.0494  # cm2 / g: water at 2 MeV (NIST XCOM), about the mean of a 6 MV beam
ANGLES = (0, 72, 144, 216, 288)  # degrees; 0 comes from the front, 90 from the patient's left
LARGEST_RADIUS_MM, SHARE = 25, 0.3
MARGIN_MM, PENUMBRA_MM = 7, 3
CUTOFF_PERCENT = 10
SEARCHED = 20_000  # the most points that the gamma index is searched for
_SLICES = 16  # traced at once

PROTOCOL = (
    f"surrogate dose, not a treatment plan: {len(ANGLES)} parallel photon beams of equal fluence "
    f"in the axial plane, at {', '.join(map(str, ANGLES))} degrees (0 from the front, 90 from the "
    "left), each attenuated by exp(-mu / rho x radiological depth), mu / rho "
    f"{MASS_ATTENUATION} cm2 / g for 6 MV; mass density from HU, linear between "
    f"{', '.join(f'{hu} HU: {density} g / cm3' for hu, density in CALIBRATION)} and constant "
    "beyond; nothing attenuates outside the body mask; no scatter, build-up or divergence. Target: "
    "sphere about the mask's voxel nearest to its centroid, radius "
    f"{SHARE} x the mask's smallest extent, {LARGEST_RADIUS_MM} mm at most, inside the mask. Round "
    f"fields with {MARGIN_MM} mm margin and a Gaussian penumbra of sigma {PENUMBRA_MM} mm. 100 %: "
    "mean over the target on the real CT, for the same fluence on both"
)
GAMMA_PROTOCOL = (
    "gamma pass rate in % (pymedphys): {percent:g} % of the largest dose, global, and {mm:g} mm, "
    f"where the dose on the real CT is at least {CUTOFF_PERCENT} % of its largest; linear "
    f"interpolation in steps of a tenth of the distance. Points that do not pass in place are "
    f"searched for, {SEARCHED} evenly spaced ones of them if they are more"
)
DVH_PROTOCOL = (
    "D98, D2: dose that 98 %, 2 % of the target's voxels receive at least, interpolated linearly; "
    "differences: synthetic less real, in % of the prescription"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Dosimetry:
    """Doses of one plan on both volumes, in % of the mean target dose on the real CT.

    Attributes:
        reference, evaluated: float64 [d, h, w], on the real and on the synthetic CT.
        target, body: bool [d, h, w]; the body without the target.
        spacing_mm: between slices, rows and columns.
    """

    reference: np.ndarray
    evaluated: np.ndarray
    target: np.ndarray
    body: np.ndarray
    spacing_mm: tuple[float, float, float]

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

    def gamma_pass_rate(self, percent, mm):
        """Computes the pass rate in %; see ``gamma_pass_rate``."""
        return gamma_pass_rate(self.reference, self.evaluated, self.spacing_mm, percent, mm)


def dosimetry(ct, sct, mask, spacing_mm):
    """Computes the dose on both volumes; see PROTOCOL.

    Args:
        ct, sct: HU [d, h, w].
        mask: bool [d, h, w], the body, not empty.
        spacing_mm: positive, between slices, rows and columns.

    Raises:
        ConfigError: a spacing is not positive.
    """
    spacing_mm = _checked(spacing_mm)
    centre_mm, radius_mm = target_sphere(mask, spacing_mm)
    target = mask & (_squared_distance(mask.shape, spacing_mm, centre_mm) <= radius_mm**2)
    reference, evaluated = (
        photon_dose(hu, mask, spacing_mm, centre_mm, radius_mm) for hu in (ct, sct)
    )
    percent = 100 / reference[target].mean()
    body = mask & ~target
    return Dosimetry(reference * percent, evaluated * percent, target, body, spacing_mm)


def mass_density(hu):
    """Converts HU to g / cm3 by CALIBRATION."""
    return np.interp(hu, *np.transpose(CALIBRATION))


def target_sphere(mask, spacing_mm):
    """Places the target: (centre in mm from the first voxel [3], radius in mm)."""
    inside = np.argwhere(mask) * spacing_mm
    centre = inside[np.square(inside - inside.mean(0)).sum(1).argmin()]
    extent = inside.max(0) - inside.min(0) + spacing_mm
    return centre, min(LARGEST_RADIUS_MM, SHARE * extent.min())


def photon_dose(hu, mask, spacing_mm, centre_mm, radius_mm, angles=ANGLES):
    """Computes the mean dose of parallel beams on a sphere, as a share of what enters the body.

    Args:
        hu: [d, h, w].
        mask: bool [d, h, w]; there is neither attenuation nor dose outside.
        spacing_mm: between slices, rows and columns.
        centre_mm, radius_mm: of the sphere, from the first voxel.
        angles: degrees; 0 goes along the rows, 90 against the columns.

    Returns:
        float64 [d, h, w].
    """
    density = np.where(mask, mass_density(hu), 0)
    z, y, x = (
        np.arange(size) * step - centre
        for size, step, centre in zip(hu.shape, spacing_mm, centre_mm, strict=True)
    )
    dose = np.zeros(hu.shape)
    for angle in angles:
        along = np.cos(np.radians(angle)), -np.sin(np.radians(angle))
        across = along[0] * x[None] - along[1] * y[:, None]
        off_axis = np.hypot(z[:, None, None], across[None])
        edge = (off_axis - radius_mm - MARGIN_MM) / PENUMBRA_MM
        depth = radiological_depth(density, spacing_mm, along)
        dose += scipy.special.ndtr(-edge) * np.exp(-MASS_ATTENUATION * depth)
    return np.where(mask, dose / len(angles), 0)


def radiological_depth(density, spacing_mm, along):
    """Computes the mass per area that a parallel beam passes on its way to each voxel's centre.

    Args:
        density: g / cm3 [d, h, w].
        along: unit vector (rows, columns), the direction of the beam.

    Returns:
        g / cm2 [d, h, w].
    """
    slices, *plane = density.shape
    in_plane = np.asarray(spacing_mm[1:])
    step = in_plane.min()
    count = int(np.ceil(np.linalg.norm((np.array(plane) + 1) * in_plane) / step)) + 1
    middle_mm, middle = (np.array(plane) - 1) / 2 * in_plane, (count - 1) / 2
    turn = np.array([[along[0], along[1]], [-along[1], along[0]]])  # rows, columns -> along, across
    rays = (np.moveaxis(np.indices((count, count)), 0, -1) - middle) * step  # [along, across, 2]
    sample = _bilinear((rays @ turn + middle_mm) / in_plane, plane)
    pixels = np.moveaxis(np.indices(plane), 0, -1) * in_plane - middle_mm
    back = _bilinear(pixels @ turn.T / step + middle, (count, count))
    depth = np.empty(density.shape)
    for start in range(0, slices, _SLICES):
        part = density[start : start + _SLICES]
        samples = (sample @ part.reshape(len(part), -1).T).reshape(count, count, -1)
        passed = (np.cumsum(samples, 0) - samples / 2) * (step / 10)
        depth[start : start + _SLICES] = (back @ passed.reshape(count**2, -1)).T.reshape(part.shape)
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


def gamma_pass_rate(reference, evaluated, spacing_mm, percent, mm):
    """Computes the share of points with a gamma index of at most 1, in %; see GAMMA_PROTOCOL.

    Args:
        reference, evaluated: dose [d, h, w], at least 2 voxels an axis.
        spacing_mm: between slices, rows and columns.
        percent, mm: the criteria, in % of the largest reference dose and as a distance.
    """
    spacing_mm, largest = _checked(spacing_mm), reference.max()
    counted = reference >= CUTOFF_PERCENT / 100 * largest
    in_place = np.abs(evaluated - reference) <= percent / 100 * largest
    left = np.flatnonzero(counted & ~in_place)
    if not left.size:
        return 100.0
    chosen = left[np.linspace(0, left.size - 1, min(left.size, SEARCHED)).astype(int)]
    wanted = np.zeros(reference.shape, bool)
    wanted.flat[chosen] = True
    (box,) = scipy.ndimage.find_objects(wanted.view(np.uint8))
    reach = [int(np.ceil(2 * mm / step)) + 1 for step in spacing_mm]
    box = tuple(
        slice(max(0, side.start - far), side.stop + far)
        for side, far in zip(box, reach, strict=True)
    )
    wanted, evaluated = wanted[box], evaluated[box]
    axes = tuple(np.arange(n) * step for n, step in zip(wanted.shape, spacing_mm, strict=True))
    import pymedphys  # imported late: it is slow, and few commands get here

    gamma = pymedphys.gamma(
        axes,
        np.where(wanted, reference[box], 0),
        axes,
        evaluated,
        percent,
        mm,
        lower_percent_dose_cutoff=CUTOFF_PERCENT,
        global_normalisation=largest,
        max_gamma=1.1,
        skip_once_passed=True,
        interp_algo="scipy",
        ram_available=2**28,
    )
    failed = left.size * np.mean(~(gamma[wanted] <= 1))
    return float(100 * (1 - failed / counted.sum()))


def dose_at_volume(dose, structure, percent):
    """Computes the dose that `percent` of a structure, bool [d, h, w], receives at least."""
    return float(np.percentile(dose[structure], 100 - percent))


def dvh(dose, structure, levels):
    """Computes the dose-volume histogram: % of a structure that receives at least each level."""
    doses = np.sort(dose[structure])
    return 100 * (1 - np.searchsorted(doses, levels) / doses.size)


def _checked(spacing_mm):
    if len(spacing_mm) != 3 or not all(step > 0 for step in spacing_mm):
        raise ConfigError(f"spacing_mm is {spacing_mm}: a dose needs three positive distances")
    slices, rows, columns = (float(step) for step in spacing_mm)
    return slices, rows, columns


def _squared_distance(shape, spacing_mm, centre_mm):
    axes = zip(shape, spacing_mm, centre_mm, strict=True)
    return sum(np.square(x) for x in np.ix_(*(np.arange(n) * step - at for n, step, at in axes)))
