"""Structural similarity (Wang et al., IEEE TIP 2004), as a loss and as a metric.

The value depends on the window, the constants, the border and the assumed range: the same pair
of CT slices scores between 0.90 and 0.96 under settings in common use. It is not invariant to
shifts either, so images stay in [-1, 1] (range 2) and are not rescaled to [0, 1] first.
"""

import dm_pix
import jax.numpy as jnp
import numpy as np

WINDOW, SIGMA, K1, K2, MAX_VAL = 11, 1.5, 0.01, 0.03, 2.0
PROTOCOL = (
    f"SSIM, Gaussian window {WINDOW} sigma {SIGMA}, valid region, k1 {K1}, k2 {K2}, "
    f"images in [-1, 1], range {MAX_VAL:g}, mean over pixels (dm_pix)"
)


def _gaussian_band(size, dtype):
    """[size - 10, size]: row i holds the 1D window at offset i, so that a product filters."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    band = np.zeros((size - WINDOW + 1, size))
    for offset, row in enumerate(band):
        row[offset : offset + WINDOW] = taps
    return jnp.asarray(band, dtype)


def gaussian_filter(x):
    """[n, h, w, c] -> [n, h - 10, w - 10, c]; two matrix products, fast on every platform."""
    rows, columns = _gaussian_band(x.shape[-3], x.dtype), _gaussian_band(x.shape[-2], x.dtype)
    return jnp.einsum("yh,...hwc,xw->...yxc", rows, x, columns, precision="highest")


def ssim(a, b):
    """dm_pix's SSIM with its default window, filtered by matrix products.

    Args:
        a, b: [n, h, w, c] in [-1, 1], at least 11 pixels a side.

    Returns:
        [n], at most 1. Variances are clipped at zero and the covariance at the root of their
        product, which leaves the value alone, but not the gradient of flat images.
    """
    return dm_pix.ssim(a, b, max_val=MAX_VAL, k1=K1, k2=K2, filter_fn=gaussian_filter)


def unclipped_ssim(a, b):
    """The same similarity without dm_pix's clipping. Shapes as for ``ssim``.

    On a flat image the clipped covariance is a matter of rounding: in float32 it may pass a
    fiftieth of this form's gradient.
    """
    mean_a, mean_b = gaussian_filter(a), gaussian_filter(b)
    variance_a = gaussian_filter(a * a) - mean_a**2
    variance_b = gaussian_filter(b * b) - mean_b**2
    covariance = gaussian_filter(a * b) - mean_a * mean_b
    c1, c2 = (K1 * MAX_VAL) ** 2, (K2 * MAX_VAL) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return similarity.mean((-3, -2, -1))


SSIM_FORMS = {"dm_pix": ssim, "unclipped": unclipped_ssim}
