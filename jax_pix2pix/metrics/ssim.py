"""Computes structural similarity (Wang et al., IEEE TIP 2004), as a loss and as a metric.

The value depends on the window, the constants, the border and the assumed range: the same pair
of CT slices scores between 0.90 and 0.96 under settings in common use. It is not invariant to
shifts either, so images stay in [-1, 1] (range 2) and are not rescaled to [0, 1] first.
"""

import jax.numpy as jnp
import numpy as np

from jax_pix2pix.errors import ConfigError

WINDOW, SIGMA, K1, K2, MAX_VAL = 11, 1.5, 0.01, 0.03, 2.0
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # five scales, the finest first
FLOOR = 1e-3
PROTOCOL = (
    f"SSIM, Gaussian window {WINDOW} sigma {SIGMA}, valid region, k1 {K1}, k2 {K2}, "
    f"images in [-1, 1], range {MAX_VAL:g}, mean over pixels (dm_pix)"
)


def _gaussian_band(size, dtype):
    """Makes [size - 10, size]: row i holds the 1D window at offset i, so that a product filters."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    band = np.zeros((size - WINDOW + 1, size))
    for offset, row in enumerate(band):
        row[offset : offset + WINDOW] = taps
    return jnp.asarray(band, dtype)


def gaussian_filter(x):
    """Filters [n, h, w, c] -> [n, h - 10, w - 10, c] by two matrix products, fast everywhere."""
    rows, columns = _gaussian_band(x.shape[-3], x.dtype), _gaussian_band(x.shape[-2], x.dtype)
    return jnp.einsum("yh,...hwc,xw->...yxc", rows, x, columns, precision="highest")


def ssim(a, b):
    """Computes dm_pix's SSIM with its default window, filtered by matrix products.

    Args:
        a, b: [n, h, w, c] in [-1, 1], at least 11 pixels a side; or slices [n, d, h, w, c].

    Returns:
        [n], or [n, d], at most 1. Variances are clipped at zero and the covariance at the root of
        their product. This changes the gradient of flat images, but not the value.
    """
    import dm_pix  # imported late: it imports Chex, and is not needed before there are images

    slices = [x.reshape(-1, *x.shape[-3:]) for x in (a, b)]
    values = dm_pix.ssim(*slices, max_val=MAX_VAL, k1=K1, k2=K2, filter_fn=gaussian_filter)
    return values.reshape(a.shape[:-3])


def unclipped_ssim(a, b):
    """Computes the same similarity without dm_pix's clipping. Shapes as for ``ssim``.

    On a flat image rounding decides the clipped covariance: in float32 it may pass a fiftieth of
    this form's gradient.
    """
    luminance, structure = _luminance_and_structure(a, b)
    return (luminance * structure).mean((-3, -2, -1))


def _luminance_and_structure(a, b):
    """Computes the two factors of the similarity, maps [n, h - 10, w - 10, c]."""
    mean_a, mean_b = gaussian_filter(a), gaussian_filter(b)
    variance_a = gaussian_filter(a * a) - mean_a**2
    variance_b = gaussian_filter(b * b) - mean_b**2
    covariance = gaussian_filter(a * b) - mean_a * mean_b
    c1, c2 = (K1 * MAX_VAL) ** 2, (K2 * MAX_VAL) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (variance_a + variance_b + c2)


def ms_ssim(a, b, levels=5):
    """Computes multi-scale SSIM (Wang et al., Asilomar 2003); filters slice by slice in 3D too.

    It is the product over scales of the mean structure, at the coarsest of the mean similarity,
    each to the power of its weight. The weights are the first ``levels`` of the paper's, normalised
    to sum to 1. Means below FLOOR count as FLOOR: the power of a negative mean is not a number.

    Args:
        a, b: [n, *spatial, c] in [-1, 1], at least 11 * 2**(levels - 1) pixels a side.

    Returns:
        [n].

    Raises:
        ConfigError: the images are too small.
    """
    if not 1 <= levels <= len(MS_WEIGHTS) or min(a.shape[-3:-1]) < WINDOW << (levels - 1):
        raise ConfigError(
            f"config.loss.ms_ssim_levels is {levels}: images of {a.shape[-3]} x {a.shape[-2]} "
            f"pixels allow 1 to {_most_levels(a.shape)}"
        )
    product = 1.0
    for level, weight in enumerate(MS_WEIGHTS[:levels]):
        luminance, structure = _luminance_and_structure(a, b)
        if level == levels - 1:
            structure = luminance * structure
        means = structure.mean(tuple(range(1, a.ndim)))
        product = product * jnp.maximum(means, FLOOR) ** (weight / sum(MS_WEIGHTS[:levels]))
        a, b = _halved(a), _halved(b)
    return product


def _most_levels(shape):
    return min(len(MS_WEIGHTS), int(np.log2(max(min(shape[-3:-1]) / WINDOW, 1))) + 1)


def _halved(x):
    """Averages 2 x 2 pixels of each slice; a last odd row or column is left out."""
    rows, columns = x.shape[-3] // 2, x.shape[-2] // 2
    x = x[..., : 2 * rows, : 2 * columns, :]
    return x.reshape(*x.shape[:-3], rows, 2, columns, 2, x.shape[-1]).mean((-4, -2))


SSIM_FORMS = {"dm_pix": ssim, "unclipped": unclipped_ssim}
