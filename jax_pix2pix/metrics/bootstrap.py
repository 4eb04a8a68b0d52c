"""Computes intervals of a mean over dependent images: a patient's are resampled together."""

import numpy as np
import scipy

RESAMPLES, SEED = 9999, 0
PROTOCOL = (
    "95 % percentile bootstrap interval of the mean over cases, patients resampled with "
    f"replacement {RESAMPLES} times, undefined values left out"
)
_AT_ONCE = 1000  # resamples held in memory


def bootstrap_interval(values, groups):
    """Computes the interval of the mean of values; see PROTOCOL. Equal input gives equal output.

    Args:
        values: float [n], NaN where undefined.
        groups: n labels, such as patients.

    Returns:
        (low, high), or None where fewer than two groups have a value.
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    _, group = np.unique(np.asarray(groups)[defined], return_inverse=True)
    counts = np.bincount(group)
    if len(counts) < 2:
        return None
    sums = np.bincount(group, weights=values[defined])
    interval = scipy.stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=0.95,
        n_resamples=RESAMPLES,
        batch=_AT_ONCE,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)
