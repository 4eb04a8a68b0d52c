"""Scores predicted masks on the host: cases, each an image or a volume, and means over them."""

import numpy as np

from jax_pix2pix.metrics import bootstrap, overlap, surface_distance
from jax_pix2pix.metrics.bootstrap import bootstrap_interval
from jax_pix2pix.metrics.controls import WORDS
from jax_pix2pix.metrics.overlap import overlap_counts, overlap_scores
from jax_pix2pix.metrics.surface_distance import surface_distances
from jax_pix2pix.safety.shown import shown

PENALTY = ".penalised"  # ends the name of a score that a missed structure costs
PENALISED = (
    "NAME.penalised, with_penalty in means: where the prediction lacks a structure that the "
    "reference has, or has one that it lacks, Dice and IoU are 0 and distances the diagonal of the "
    "image or volume (as in BraTS); where both lack it the case is left out"
)
PROTOCOLS = {
    **overlap.PROTOCOLS,
    **surface_distance.PROTOCOLS,
    "penalised": PENALISED,
    "interval_95": bootstrap.PROTOCOL,
}


def score_masks(prediction, reference, spacing_mm):
    """Scores overlap, and distances between surfaces where the spacing is known.

    Args:
        prediction, reference: bool [h, w] or [d, h, w], NumPy.
        spacing_mm: positive, one for each axis; or None.

    Returns:
        {metric: float}, NaN where undefined, and {metric + PENALTY: float}; see PROTOCOLS.

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
    worst = {"dice": 0.0, "iou": 0.0}
    if spacing_mm is not None:
        distances = surface_distances(prediction, reference, spacing_mm)
        diagonal = np.linalg.norm(np.multiply(prediction.shape, spacing_mm))
        scores |= distances
        worst |= dict.fromkeys(distances, float(diagonal))
    present = int(prediction.any()) + int(reference.any())
    for name, value in worst.items():
        scores[f"{name}{PENALTY}"] = (np.nan, value, scores[name])[present]
    return scores


def over_cases(cases, patients):
    """Averages scores over cases.

    Args:
        cases: [{metric: float}], NaN or missing where undefined.
        patients: the patient of each case; a patient's cases are resampled together.

    Returns:
        {metric: {"mean": float or None, "interval_95": (low, high) or None, "cases": number of
        cases where it is defined, "undefined": number of the others}}; and where cases have the
        metric with PENALTY its mean "with_penalty", of so many "cases_with_penalty".
    """
    summary = {}
    for metric in dict.fromkeys(metric for case in cases for metric in case):
        values = np.array([case.get(metric, np.nan) for case in cases])
        count = int(np.sum(~np.isnan(values)))
        mean = float(np.nanmean(values)) if count else None
        if metric.endswith(PENALTY):  # the metric itself comes first
            penalised = {"with_penalty": mean, "cases_with_penalty": count}
            summary[metric.removesuffix(PENALTY)] |= penalised
            continue
        summary[metric] = {
            "mean": mean,
            "interval_95": bootstrap_interval(values, patients),
            "cases": count,
            "undefined": len(values) - count,
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
    table = [[shown(title), *metrics]]
    for name, summary in rows.items():
        cells = [cell(summary[metric]) if metric in summary else "" for metric in metrics]
        table.append([shown(name), *cells])
    first, *widths = (max(map(len, column)) + 2 for column in zip(*table, strict=True))
    lines = []
    for name, *cells in table:
        pairs = zip(cells, widths, strict=True)
        row = "".join(f"{text:>{max(24, width)}}" for text, width in pairs)
        lines.append(f"{name:{max(28, first)}}{row}")
    return "\n".join(lines)


def by_score(summaries):
    """Transposes {name: {metric: summary}} to a row for each metric: {metric: {name: summary}}."""
    rows = {}
    for name, summary in summaries.items():
        for metric, score in summary.items():
            rows.setdefault(metric, {})[name] = score
    return rows


def cell(score, digits=".4f", of_interval=".3f"):
    """Formats a summary from over_cases: mean, interval, and what makes the mean look too good.

    That is the number of cases where it is defined, if there are others, the mean with a penalty
    where it differs, and that a control reaches the score too.
    """
    if score["mean"] is None:
        text = "undefined"
    else:
        text = format(score["mean"], digits)
        if interval := score["interval_95"]:
            text += f" [{interval[0]:{of_interval}}, {interval[1]:{of_interval}}]"
        if score["undefined"]:
            text += f" ({score['cases']} of {score['cases'] + score['undefined']})"
    if score.get("with_penalty") is not None and score["with_penalty"] != score["mean"]:
        text += f", with penalty {score['with_penalty']:{digits}} ({score['cases_with_penalty']})"
    return f"{text}, {WORDS}" if score.get("does_not_tell") else text
