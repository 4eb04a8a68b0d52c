"""Computes the gamma index of two doses, which joins their difference and their distance."""

import numpy as np
import scipy

CUTOFF_PERCENT = 10
SEARCHED = 300  # the most points that the gamma index is searched for
PROTOCOL = (
    "gamma pass rate in % (pymedphys): {percent:g} % of {normalisation}, and {mm:g} mm, where the "
    f"dose on the real CT is at least {CUTOFF_PERCENT} % of its largest; linear interpolation in "
    "steps of a tenth of the distance. Points that neither pass in place nor are beyond all values "
    f"within reach are searched for, {SEARCHED} of them, drawn with a fixed seed, if they are more"
)


def protocol(percent, mm, local=False):
    """Describes a pass rate in words."""
    normalisation = "the dose at the point, local," if local else "the largest dose, global,"
    return PROTOCOL.format(percent=percent, mm=mm, normalisation=normalisation)


def gamma_pass_rate(reference, evaluated, spacing_mm, percent, mm, local=False):
    """Computes the share of points with a gamma index of at most 1, in %; see PROTOCOL.

    Args:
        reference, evaluated: dose [d, h, w], at least 2 voxels an axis.
        spacing_mm: positive, between slices, rows and columns.
        percent, mm: the criteria, in % of the largest reference dose and as a distance.
        local: in % of the reference dose at each point instead.
    """
    largest = reference.max()
    counted = reference >= CUTOFF_PERCENT / 100 * largest
    allowed = percent / 100 * (reference if local else largest)
    left = counted & ~(np.abs(evaluated - reference) <= allowed)
    # Interpolated values lie between those of the voxels around: most points need no search.
    sides = [2 * int(np.ceil(mm / step)) + 1 for step in spacing_mm]
    lowest = scipy.ndimage.minimum_filter(evaluated, sides)
    highest = scipy.ndimage.maximum_filter(evaluated, sides)
    beyond = left & ((reference - allowed > highest) | (reference + allowed < lowest))
    failed = np.sum(beyond)
    left = np.flatnonzero(left & ~beyond)
    if left.size:
        failed += left.size * _failing(reference, evaluated, spacing_mm, percent, mm, local, left)
    return float(100 * (1 - failed / counted.sum()))


def _failing(reference, evaluated, spacing_mm, percent, mm, local, left):
    """Searches for voxels, left [n] flat: the share of them with a gamma index above 1."""
    # Not every nth, which may fall into step with the rows of voxels.
    chosen = np.random.default_rng(0).permutation(left)[:SEARCHED]
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
        global_normalisation=reference.max(),
        local_gamma=local,
        max_gamma=1.1,
        skip_once_passed=True,
        interp_algo="scipy",
        ram_available=2**28,
    )
    return np.mean(~(gamma[wanted] <= 1))
