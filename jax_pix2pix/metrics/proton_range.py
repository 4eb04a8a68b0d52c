"""Compares the water-equivalent path of beams on a CT and on a synthetic CT: the range of protons.

It answers one question: by how many mm a proton beam that is planned on the synthetic CT stops
short of, or beyond, the distal edge of its target. It has no scatter and no nuclear interactions.
"""

import numpy as np

# HU, stopping power relative to water: matRad's table of a Siemens SOMATOM Definition Flash, kernel
# B40f, from DKFZ (Wieser et al., Med. Phys. 44 (2017) 2556; hlutLibrary).
STOPPING_POWER = (
    (-1025, 0.0001),
    (-1000, 0.001),
    (-200, 0.8),
    (-114, 0.94),
    (-39, 0.995),
    (0, 1.0),
    (77, 1.075),
    (196, 1.11),
    (1540, 1.7),
    (1974, 1.778),
    (3096, 2.077),
)
PROTOCOL = (
    "range of protons, a surrogate: on every ray of the {beams} parallel beams through a target "
    "the water-equivalent path length from the body's surface to the target's distal edge, along a "
    "straight line; its difference between synthetic and real CT in mm, without sign, as mean and "
    "95th percentile over all rays, beams and targets. Stopping power relative to water from HU, "
    "linear between "
    f"{', '.join(f'{hu} HU: {power:g}' for hu, power in STOPPING_POWER)} and constant beyond "
    "(matRad's table of a Siemens SOMATOM Definition Flash, kernel B40f, DKFZ)"
)


def stopping_power(hu):
    """Converts HU to the stopping power of protons relative to water by STOPPING_POWER."""
    return np.interp(hu, *np.transpose(STOPPING_POWER))


def paths(power, grid, spheres):
    """Computes the water-equivalent path of every ray to the distal edge of every target.

    Args:
        power: relative stopping power on a BeamGrid, [d, h, w].
        grid: BeamGrid.
        spheres: [(centre in mm from the grid's first voxel [3], radius in mm)].

    Returns:
        mm, float64 [rays of all beams and targets], in one order for equal grid and spheres.
    """
    found = []
    for rays in grid.rays.values():
        for (slice_mm, *centre), radius in spheres:
            from_centre = grid.axes[0] - slice_mm
            (held,) = np.nonzero(np.abs(from_centre) <= radius)
            passed = rays.passed(power[held])
            at, ray = rays.places(np.array(centre))
            across = (np.arange(passed.shape[1]) - ray) * rays.step_mm
            half = radius**2 - across[:, None] ** 2 - from_centre[held] ** 2  # squared half chord
            hit = np.nonzero(half >= -1e-3)  # rays that graze the sphere count
            end = np.clip(
                at + np.sqrt(np.maximum(half[hit], 0)) / rays.step_mm, 0, len(passed) - 1.001
            )
            low = end.astype(int)
            share = end - low
            found.append((1 - share) * passed[low, *hit] + share * passed[low + 1, *hit])
    return np.concatenate(found)


def errors(reference, evaluated):
    """Errors of paths [rays] in mm: {"mean_mm", "p95_mm"}, NaN where no ray hits a target."""
    difference = np.abs(evaluated - reference)
    if not difference.size:
        return {"mean_mm": np.nan, "p95_mm": np.nan}
    return {"mean_mm": float(difference.mean()), "p95_mm": float(np.percentile(difference, 95))}
