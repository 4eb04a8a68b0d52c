"""Fits baselines for a synthetic CT: the mean CT, and a line from MR to HU in each tissue."""

import dataclasses

import numpy as np

from jax_pix2pix.metrics.otsu import thresholds

TISSUES = 4  # in a head's MR: bone and air, fluid, grey matter and muscle, white matter and fat
BINS = 256
AIR_HU = -1000  # outside the body
PROTOCOLS = {
    "identity": "the source itself, as the network sees it: of sources in HU",
    "mean_ct": (
        "at each pixel the mean HU of the training slices whose body reaches there; where none "
        f"does, their mean over all pixels; {AIR_HU} HU outside the body"
    ),
    "tissue_regression": (
        f"the source's values in the training bodies, shared out into {TISSUES} classes by Otsu's "
        f"method ({BINS} bins), and in each class the least-squares line from the source to HU; "
        f"{AIR_HU} HU outside the body"
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class MeanCT:
    """mean_hu: [h, w]."""

    mean_hu: np.ndarray

    def __call__(self, source, mask):
        """Predicts HU [d, h, w] from stored sources and masks [d, h, w]."""
        del source
        return np.where(mask, self.mean_hu, AIR_HU)


@dataclasses.dataclass(frozen=True, eq=False)
class TissueRegression:
    """Lines by tissue: slopes[k] * source + intercepts[k] for source in [edges[k - 1], edges[k]).

    edges: [TISSUES - 1], stored values.
    slopes, intercepts: [TISSUES], to HU.
    """

    edges: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    def __call__(self, source, mask):
        """Predicts HU [d, h, w] from stored sources and masks [d, h, w]."""
        tissue = np.searchsorted(self.edges, source, side="right")
        return np.where(mask, self.slopes[tissue] * source + self.intercepts[tissue], AIR_HU)


def fit_baselines(slices, source_range):
    """Fits the baselines in one pass over the training slices.

    Args:
        slices: iterable of (stored source, HU, bool mask of the body), [n, h, w] each.
        source_range: lowest and highest value of the stored source.

    Returns:
        {"mean_ct": MeanCT, "tissue_regression": TissueRegression}.
    """
    low, high = source_range
    count, total = 0, 0  # by pixel
    moments = np.zeros((5, BINS))  # 1, x, y, x x and x y by bin of x
    for source, hu, mask in slices:
        count = count + mask.sum(0)
        total = total + np.where(mask, hu, 0).sum(0, dtype=np.float64)
        x, y = source[mask].astype(np.float64) - low, hu[mask].astype(np.float64)
        places = np.clip(x * BINS / (high - low + 1), 0, BINS - 1).astype(int)
        for moment, product in zip(moments, (np.ones_like(x), x, y, x * x, x * y), strict=True):
            moment += np.bincount(places, product, BINS)
    mean = moments[2].sum() / moments[0].sum()
    mean_hu = np.where(count > 0, total / np.maximum(count, 1), mean)

    bounds = thresholds(moments[0], TISSUES)
    slopes, intercepts = [], []
    for first, stop in zip([0, *bounds], [*bounds, BINS], strict=True):
        n, x, y, xx, xy = moments[:, first:stop].sum(1)
        variance = n * xx - x * x
        # A tissue of a single value, up to rounding, has slope 0.
        slope = (n * xy - x * y) / variance if variance > 1e-9 * n * xx else 0.0
        slopes.append(slope)
        intercepts.append((y - slope * x) / n - slope * low if n else mean)
    edges = low + np.asarray(bounds) * (high - low + 1) / BINS
    return {
        "mean_ct": MeanCT(mean_hu),
        "tissue_regression": TissueRegression(edges, np.array(slopes), np.array(intercepts)),
    }
