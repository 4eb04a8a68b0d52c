"""Finds Otsu's thresholds between any number of classes."""

import numpy as np


def thresholds(histogram, classes):
    """Finds the thresholds with the largest between-class variance of all possible ones.

    Args:
        histogram: counts [bins], not all zero; equally wide bins.
        classes: 2 or more.

    Returns:
        List of classes - 1 rising bins: each is the first bin of the class above it.
    """
    bins = len(histogram)
    weight = np.concatenate([[0], np.cumsum(histogram, dtype=np.float64)])
    moment = np.concatenate([[0], np.cumsum(histogram * np.arange(bins, dtype=np.float64))])
    # gain[i, j]: what bins [i, j) add to the sum of weight times squared mean, to be maximised.
    weights = weight - weight[:, None]
    moments = moment - moment[:, None]
    gain = np.divide(moments**2, weights, out=np.zeros_like(weights), where=weights > 0)
    gain[np.tril_indices(bins + 1)] = -np.inf  # a class has at least one bin
    best, choices = gain[0], []
    for _ in range(classes - 1):
        options = best[:, None] + gain  # [where the last class begins, where it ends]
        choices.append(options.argmax(0))
        best = options.max(0)
    end, found = bins, []
    for choice in reversed(choices):
        end = int(choice[end])
        found.insert(0, end)
    return found
