"""Makes synthetic CTs that are known to be wrong, and finds the scores that they reach too.

A dose score that a head of water reaches as well as a network says nothing about the network.
"""

from typing import NamedTuple

import numpy as np

DENSE_HU, SOFT_HU = 150, 40
LEAST_HU = 5  # mean error in the body; what is closer to the real CT is no control
SUFFIX = ".best_control"
WORDS = "does not tell"


class Kind(NamedTuple):
    """How a kind of score is held against the controls'."""

    best: float
    margin: float
    unit: str


KINDS = {  # by the beginning of a score's name
    "gamma": Kind(100, 1, "points of %"),
    "delta": Kind(0, 0.25, "% of the prescription"),
    "range": Kind(0, 0.5, "mm"),
}
PROTOCOLS = {
    "water": "the real CT with 0 HU in all of the body",
    "bone_as_soft_tissue": f"the real CT with {SOFT_HU} HU wherever it is above {DENSE_HU} HU",
    "mirrored": "the real CT mirrored front to back within the body's bounding box",
}
PROTOCOL = (
    f"{WORDS}: a control, a CT made wrong on purpose, reaches the score too, within "
    f"{', '.join(f'{kind.margin:g} {kind.unit} ({name})' for name, kind in KINDS.items())}; over "
    "patients by the mean distance from the best value, signs left out, to that of each patient's "
    "best control. Controls whose mean error in the body is below "
    f"{LEAST_HU} HU are none and left out"
)


def made_of(ct, mask):
    """Makes the controls of a real CT.

    Args:
        ct: HU [d, h, w], rows from front to back.
        mask: bool [d, h, w], the body, not empty.

    Returns:
        {name of PROTOCOLS: HU [d, h, w]}, without those that are too close to the real CT.
    """
    rows = np.flatnonzero(mask.any((0, 2)))
    box = slice(rows[0], rows[-1] + 1)
    mirrored = ct.copy()
    mirrored[:, box] = ct[:, box][:, ::-1]
    found = {
        "water": np.where(mask, 0, ct),
        "bone_as_soft_tissue": np.where(ct > DENSE_HU, SOFT_HU, ct),
        "mirrored": mirrored,
    }
    real = ct[mask].astype(np.float64)
    return {name: hu for name, hu in found.items() if np.abs(hu[mask] - real).mean() >= LEAST_HU}


def best_of(scores):
    """Finds the best value of each score over controls: [{score: float}] -> {score: float}.

    NaN where no control has one.
    """
    best = {}
    for name in scores[0] if scores else ():
        values = [of_control[name] for of_control in scores if not np.isnan(of_control[name])]
        best[name] = min(values, key=lambda value: _distance(name, value), default=np.nan)
    return best


def does_not_tell(cases):
    """Finds the scores that the best control of each case reaches too; see PROTOCOL.

    Args:
        cases: [{score: float}], with each score's best control under its name and SUFFIX.

    Returns:
        [score]: those that tell nothing of these cases together.
    """
    found = []
    for name in cases[0]:
        if f"{name}{SUFFIX}" not in cases[0]:
            continue
        pairs = np.array([(case[name], case[f"{name}{SUFFIX}"]) for case in cases], np.float64)
        model, control = _distance(name, pairs[~np.isnan(pairs).any(1)]).T
        if model.size and model.mean() > control.mean() - KINDS[_kind(name)].margin:
            found.append(name)
    return found


def _kind(name):
    return next(kind for kind in KINDS if name.startswith(kind))


def _distance(name, value):
    return np.abs(value - KINDS[_kind(name)].best)
