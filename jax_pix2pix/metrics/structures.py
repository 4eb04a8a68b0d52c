"""Compares bone, soft tissue and air of a synthetic CT with those of the real one."""

import numpy as np

from jax_pix2pix.intensity import AIR_HU, BONE_HU
from jax_pix2pix.metrics.mask_scores import PENALTY, score_masks

_SCORES = ("dice", "hd95_mm", f"dice{PENALTY}", f"hd95_mm{PENALTY}")
NAMES = ("bone", "soft_tissue", "air")
PROTOCOL = (
    f"structures by threshold, alike in both volumes, inside the body mask: bone above {BONE_HU} "
    f"HU, air below {AIR_HU} HU, soft tissue between; undefined where neither has any; "
    "where one has none see penalised"
)


def structures(hu, mask):
    """Divides the mask into {name of NAMES: bool [d, h, w]}; HU may be any numbers."""
    bone, air = (hu > BONE_HU) & mask, (hu < AIR_HU) & mask
    return {"bone": bone, "soft_tissue": mask & ~bone & ~air, "air": air}


def structure_scores(ct, sct, mask, spacing_mm):
    """Computes Dice and HD95 of each structure, as in overlap.py and surface_distance.py.

    Args:
        ct, sct: HU [d, h, w].
        mask: bool [d, h, w], the body.
        spacing_mm: positive, between slices, rows and columns; None where unknown.

    Returns:
        {"bone.dice", "bone.hd95_mm", "bone.dice.penalised", ...}: floats; NaN where undefined:
        distances if the spacing is unknown, and all scores of a structure that neither volume has.
    """
    scores = {}
    predicted, reference = structures(sct, mask), structures(ct, mask)
    for name in NAMES:
        found = {}
        if predicted[name].any() or reference[name].any():
            found = score_masks(predicted[name], reference[name], spacing_mm)
        scores |= {f"{name}.{score}": found.get(score, np.nan) for score in _SCORES}
    return scores
