"""Scores one patient's synthetic CT, by flat names; `mask_scores` averages over patients."""

import functools

import numpy as np

from jax_pix2pix.imaging.hounsfield import AIR_HU, check_hu
from jax_pix2pix.metrics import (
    bootstrap,
    controls,
    mask_scores,
    overlap,
    structures,
    surface_distance,
)
from jax_pix2pix.metrics import dose as doses
from jax_pix2pix.metrics.protocols import PROTOCOLS as COMPARISONS
from jax_pix2pix.metrics.protocols import check, compare

DOSE_SCORES = tuple(f"{name}{suffix}" for name in doses.SCORES for suffix in ("", controls.SUFFIX))
PROTOCOLS = {
    **{name: f"version {p.version}: {p.text}" for name, p in COMPARISONS.items()},
    "padding": f"HU below {AIR_HU} in either CT count as {AIR_HU}, as outside a field of view",
    "structures": structures.PROTOCOL,
    "dice": overlap.PROTOCOLS["dice"],
    "hd95_mm": surface_distance.PROTOCOLS["hd95_mm"],
    "penalised": mask_scores.PENALISED,
    **doses.PROTOCOLS,
    "does_not_tell": controls.PROTOCOL,
    **{f"control: {name}": text for name, text in controls.PROTOCOLS.items()},
    "interval_95": bootstrap.PROTOCOL,
}


class CTScores(dict):
    """{name: float} of a synthetic CT; PROTOCOLS says what each means.

    Attributes:
        controls: {name: {score: float}}, of CTs that are wrong on purpose; see `controls`.
        doses: dose.Doses, or None where there is no dose.
    """

    def __init__(self, scores, of_controls, doses):
        super().__init__(scores)
        self.controls, self.doses = of_controls, doses

    @property
    def does_not_tell(self):
        """The scores that a control reaches too: a list of names."""
        return controls.does_not_tell([self])

    def __repr__(self):
        return f"{super().__repr__()}, {controls.WORDS}: {', '.join(self.does_not_tell) or 'none'}"


class CTScorer:
    """Scores synthetic CTs of one patient; what the real CT alone decides is computed once.

    Args:
        ct: HU [d, h, w], integers or floats; slices from feet to head, rows from front to back,
            columns from right to left.
        mask: bool [d, h, w], the body.
        spacing_mm: positive, between slices, rows and columns; None where it is unknown or slices
            are missing in between.
        protocols: names of protocols.PROTOCOLS; None is all of them.
        dose: whether the surrogate dose and the range of protons are computed.

    Calling it with a synthetic CT gives CTScores. The names depend only on protocols and dose. A
    score is NaN where undefined: distances and doses without a spacing, doses also if an axis has
    a single voxel.

    Raises:
        ConfigError: the mask is empty, a value is not finite, or there is no such protocol.
        ValueError: the shapes differ, or the mask is not bool.
    """

    def __init__(self, ct, mask, spacing_mm, protocols=None, dose=True):
        self._ct, self._mask, self._spacing_mm = np.maximum(ct, AIR_HU), mask, spacing_mm
        self._protocols, self._dose = protocols, dose

    def __call__(self, sct):
        ct, sct, mask = self._ct, np.maximum(sct, AIR_HU), self._mask
        scores = {
            f"{name}.{metric}": value
            for name, values in compare(ct, sct, mask, self._protocols).items()
            for metric, value in values.items()
        }
        scores |= structures.structure_scores(ct, sct, mask, self._spacing_mm)
        if not self._dose:
            return CTScores(scores, {}, None)
        if self._dosimetry is None:
            return CTScores(scores | dict.fromkeys(DOSE_SCORES, np.nan), {}, None)
        found, compared = self._dosimetry.scores(sct)
        best = controls.best_of([*self._controls.values()])
        for name, value in found.items():
            scores |= {name: value, f"{name}{controls.SUFFIX}": best.get(name, np.nan)}
        return CTScores(scores, self._controls, compared)

    @functools.cached_property
    def _dosimetry(self):
        if self._spacing_mm is None or min(self._mask.shape) < 2:
            return None
        return doses.Dosimetry(self._ct, self._mask, self._spacing_mm)

    @functools.cached_property
    def _controls(self):
        made = controls.made_of(self._ct, self._mask)
        return {name: self._dosimetry.scores(hu)[0] for name, hu in made.items()}


def score_ct(ct, sct, mask, spacing_mm, protocols=None, dose=True):
    """Scores a volume, HU [d, h, w], as CTScorer does: CTScores, with the same arguments.

    Raises:
        DataError: the values of `ct` are no HU, see `hounsfield.check_hu`.
    """
    check(ct, sct, mask)
    check_hu(ct, "the real CT")
    return CTScorer(ct, mask, spacing_mm, protocols, dose)(sct)
