"""Normalised mutual information of two images of one place, whatever their modalities."""

import numpy as np

BINS = 32
PROTOCOL = (
    "normalised mutual information, (H(A) + H(B)) / H(A, B) of a joint histogram of "
    f"{BINS} x {BINS} bins between the values' extremes (Studholme 1999): 1 for values that tell "
    "nothing about each other, 2 for a one-to-one relation"
)


def normalised_mutual_information(one, other):
    """Compares arrays of equal shape. -> float, see PROTOCOL; NaN if both are constant or empty."""
    if not one.size:
        return np.nan
    joint, _, _ = np.histogram2d(one.ravel(), other.ravel(), BINS)
    both = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both if both else np.nan


def _entropy(counts):
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
