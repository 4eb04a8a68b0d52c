"""Scores one patient's synthetic CT, by flat names; `mask_scores` averages over patients."""

import numpy as np

from jax_pix2pix.imaging.hounsfield import AIR_HU, check_hu
from jax_pix2pix.metrics import bootstrap, overlap, structures, surface_distance
from jax_pix2pix.metrics.dose import DVH_PROTOCOL, GAMMA_PROTOCOL, PROTOCOL, dosimetry
from jax_pix2pix.metrics.protocols import PROTOCOLS as COMPARISONS
from jax_pix2pix.metrics.protocols import check, compare

GAMMAS = ((2, 2), (3, 3))  # %, mm
DIFFERENCES = ("d98", "d2", "dmean", "body_dmean")
DOSE_SCORES = (
    *(f"gamma_{percent}_{mm}" for percent, mm in GAMMAS),
    *(f"delta_{name}" for name in DIFFERENCES),
)
PROTOCOLS = {
    **{name: f"version {p.version}: {p.text}" for name, p in COMPARISONS.items()},
    "padding": f"HU below {AIR_HU} in either CT count as {AIR_HU}, as outside a field of view",
    "structures": structures.PROTOCOL,
    "dice": overlap.PROTOCOLS["dice"],
    "hd95_mm": surface_distance.PROTOCOLS["hd95_mm"],
    "dose": PROTOCOL,
    **{f"gamma_{p}_{mm}": GAMMA_PROTOCOL.format(percent=p, mm=mm) for p, mm in GAMMAS},
    "delta": DVH_PROTOCOL,
    "interval_95": bootstrap.PROTOCOL,
}


def score_ct(ct, sct, mask, spacing_mm, protocols=None, dose=True):
    """Scores a volume; PROTOCOLS says what each score means.

    Args:
        ct, sct: HU [d, h, w], integers or floats; slices from feet to head, rows from front to
            back, columns from right to left.
        mask: bool [d, h, w], the body.
        spacing_mm: positive, between slices, rows and columns; None where it is unknown or slices
            are missing in between.
        protocols: names of protocols.PROTOCOLS; None is all of them.
        dose: whether the surrogate dose is computed.

    Returns:
        {"synthrad2023.mae", ..., "bone.dice", "bone.hd95_mm", ..., "gamma_2_2", ..., "delta_d98",
        ...: float}. The names depend only on protocols and dose. A score is NaN where undefined:
        distances and doses without a spacing, doses also if an axis has a single voxel.

    Raises:
        ConfigError: the mask is empty, a value is not finite, or there is no such protocol.
        DataError: the values of `ct` are no HU, see `hounsfield.check_hu`.
        ValueError: the shapes differ, or the mask is not bool.
    """
    check(ct, sct, mask)
    check_hu(ct, "the real CT")
    return scores_of_hu(ct, sct, mask, spacing_mm, protocols, dose)


def scores_of_hu(ct, sct, mask, spacing_mm, protocols=None, dose=True):
    """Scores as `score_ct` where the reader of the CT has checked that it is in HU."""
    ct, sct = np.maximum(ct, AIR_HU), np.maximum(sct, AIR_HU)
    scores = {
        f"{name}.{metric}": value
        for name, values in compare(ct, sct, mask, protocols).items()
        for metric, value in values.items()
    }
    scores |= structures.structure_scores(ct, sct, mask, spacing_mm)
    if dose and (spacing_mm is None or min(mask.shape) < 2):
        return scores | dict.fromkeys(DOSE_SCORES, np.nan)
    if dose:
        doses = dosimetry(ct, sct, mask, spacing_mm)
        for percent, mm in GAMMAS:
            scores[f"gamma_{percent}_{mm}"] = doses.gamma_pass_rate(percent, mm)
        scores |= {f"delta_{name}": value for name, value in doses.differences().items()}
    return scores
