"""Scores predicted masks on the host: cases, each an image or a volume, and means over them."""

import numpy as np

from jax_pix2pix.metrics import bootstrap, overlap, surface_distance
from jax_pix2pix.metrics.bootstrap import bootstrap_interval
from jax_pix2pix.metrics.overlap import overlap_counts, overlap_scores
from jax_pix2pix.metrics.surface_distance import surface_distances
from jax_pix2pix.safety.shown import shown

PROTOCOLS = overlap.PROTOCOLS | surface_distance.PROTOCOLS | {"interval_95": bootstrap.PROTOCOL}


def score_masks(prediction, reference, spacing_mm):
    """Scores overlap, and distances between surfaces where the spacing is known.

    Args:
        prediction, reference: bool [h, w] or [d, h, w], NumPy.
        spacing_mm: positive, one for each axis; or None.

    Returns:
        {metric: float}, NaN where undefined; see PROTOCOLS.

    Raises:
        ValueError: the masks are not bool or differ in shape, or a spacing is not positive.
    """
    for mask in (prediction, reference):
        if mask.dtype != bool or mask.shape != prediction.shape:
            raise ValueError(
                f"masks are {prediction.dtype} {prediction.shape} and {reference.dtype} "
                f"{reference.shape}: use bool of one shape"
            )
    counts = overlap_counts(prediction, reference)
    sums = {name: np.sum(count, dtype=np.int64) for name, count in counts.items()}
    scores = {name: float(score) for name, score in overlap_scores(**sums).items()}
    if spacing_mm is not None:
        scores |= surface_distances(prediction, reference, spacing_mm)
    return scores


def over_cases(cases, patients):
    """Averages scores over cases.

    Args:
        cases: [{metric: float}], NaN or missing where undefined.
        patients: the patient of each case; a patient's cases are resampled together.

    Returns:
        {metric: {"mean": float or None, "interval_95": (low, high) or None, "cases": number of
        cases where it is defined, "undefined": number of the others}}.
    """
    summary = {}
    for metric in dict.fromkeys(metric for case in cases for metric in case):
        values = np.array([case.get(metric, np.nan) for case in cases])
        defined = values[~np.isnan(values)]
        summary[metric] = {
            "mean": float(defined.mean()) if len(defined) else None,
            "interval_95": bootstrap_interval(values, patients),
            "cases": len(defined),
            "undefined": len(values) - len(defined),
        }
    return summary


def json_case(scores):
    """Turns NaN, which JSON does not have, into None: {metric: float or None}."""
    return {metric: None if np.isnan(score) else score for metric, score in scores.items()}


def table_of(title, rows):
    """Formats means with intervals: {row name: summary from over_cases}, metrics in columns.

    `by_score` makes rows of metrics that do not fit side by side.
    """
    metrics = list(dict.fromkeys(metric for summary in rows.values() for metric in summary))
    lines = [f"{shown(title):28}" + "".join(f"{metric:>24}" for metric in metrics)]
    for name, summary in rows.items():
        cells = [_cell(summary[metric]) if metric in summary else "" for metric in metrics]
        lines.append(f"{shown(name):28}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def by_score(summaries):
    """Transposes {name: {metric: summary}} to a row for each metric: {metric: {name: summary}}."""
    rows = {}
    for name, summary in summaries.items():
        for metric, score in summary.items():
            rows.setdefault(metric, {})[name] = score
    return rows


def _cell(score):
    if score["mean"] is None:
        return "undefined"
    interval = score["interval_95"]
    return f"{score['mean']:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
