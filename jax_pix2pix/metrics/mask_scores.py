"""Scores of predicted masks on the host: of cases, each an image or a volume, and over them."""

import numpy as np

from jax_pix2pix.metrics import bootstrap, overlap, surface_distance
from jax_pix2pix.metrics.bootstrap import bootstrap_interval
from jax_pix2pix.metrics.overlap import overlap_counts, overlap_scores
from jax_pix2pix.metrics.surface_distance import surface_distances

PROTOCOLS = overlap.PROTOCOLS | surface_distance.PROTOCOLS | {"interval_95": bootstrap.PROTOCOL}


def case_scores(prediction, reference, spacing_mm):
    """Overlap, and distances between surfaces where the spacing is known.

    Args:
        prediction, reference: bool [h, w] or [d, h, w], NumPy.
        spacing_mm: positive, one for each axis; or None.

    Returns:
        {metric: float}, NaN where undefined; see PROTOCOLS.
    """
    counts = overlap_counts(prediction, reference)
    sums = {name: np.sum(count, dtype=np.int64) for name, count in counts.items()}
    scores = {name: float(score) for name, score in overlap_scores(**sums).items()}
    if spacing_mm is not None:
        scores |= surface_distances(prediction, reference, spacing_mm)
    return scores


def over_cases(cases, patients):
    """Means over cases.

    Args:
        cases: [{metric: float}], NaN where undefined.
        patients: of each case; those of one patient are resampled together.

    Returns:
        {metric: {"mean": float or None, "interval_95": (low, high) or None, "cases": where it is
        defined, "undefined": the others}}.
    """
    summary = {}
    for metric in cases[0]:
        values = np.array([case[metric] for case in cases])
        defined = values[~np.isnan(values)]
        summary[metric] = {
            "mean": float(defined.mean()) if len(defined) else None,
            "interval_95": bootstrap_interval(values, patients),
            "cases": len(defined),
            "undefined": len(values) - len(defined),
        }
    return summary


def json_case(scores):
    """{metric: float} without NaN, which JSON does not have: None."""
    return {metric: None if np.isnan(score) else score for metric, score in scores.items()}


def print_table(title, rows):
    """Means with their intervals: {row name: summary from over_cases}, metrics in columns."""
    metrics = list(dict.fromkeys(metric for summary in rows.values() for metric in summary))
    print(f"{title:28}" + "".join(f"{metric:>24}" for metric in metrics))
    for name, summary in rows.items():
        cells = [_cell(summary[metric]) if metric in summary else "" for metric in metrics]
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells))


def _cell(score):
    if score["mean"] is None:
        return "undefined"
    interval = score["interval_95"]
    return f"{score['mean']:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
