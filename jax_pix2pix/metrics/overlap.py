"""Scores the overlap of two masks from counts that add up over slices.

The counts are taken where the masks are, under jit or in NumPy. They are integers, so a volume's
are the sums over its slices in any order and on any number of devices, and padding that is left
out changes nothing.
"""

import numpy as np

PROTOCOLS = {
    "dice": "Dice, 2 TP / (2 TP + FP + FN) in pixels or voxels; both masks empty: 1",
    "iou": "intersection over union, TP / (TP + FP + FN); both masks empty: 1",
    "sensitivity": "TP / (TP + FN); reference empty: undefined, left out of means",
    "specificity": "TN / (TN + FP); reference full: undefined, left out of means",
}


def overlap_counts(prediction, reference):
    """Counts pixels of each kind over the last two axes.

    Args:
        prediction, reference: bool [..., h, w], NumPy or JAX, broadcast against each other:
            predictions at several thresholds are [t, n, h, w].

    Returns:
        {"tp", "fp", "fn", "tn"}: int32 [...].
    """

    def count(mask):
        return mask.sum((-2, -1), dtype=np.int32)

    both, predicted, present = count(prediction & reference), count(prediction), count(reference)
    pixels = prediction.shape[-2] * prediction.shape[-1]
    return {
        "tp": both,
        "fp": predicted - both,
        "fn": present - both,
        "tn": pixels - predicted - present + both,
    }


def overlap_scores(tp, fp, fn, tn):
    """Scores counts of any shape, elementwise; see PROTOCOLS.

    Counts for a volume or a data set are sums of ``overlap_counts``; add them up in int64.

    Returns:
        {"dice", "iou", "sensitivity", "specificity"}: float64, NaN where undefined.
    """
    tp, fp, fn, tn = (np.asarray(count, np.float64) for count in (tp, fp, fn, tn))
    return {
        "dice": _ratio(2 * tp, 2 * tp + fp + fn, empty=1.0),
        "iou": _ratio(tp, tp + fp + fn, empty=1.0),
        "sensitivity": _ratio(tp, tp + fn, empty=np.nan),
        "specificity": _ratio(tn, tn + fp, empty=np.nan),
    }


def _ratio(part, whole, empty):
    return np.divide(part, whole, out=np.full(np.shape(whole), empty), where=whole > 0)
