"""Measures the quality of each image, with the protocol that each value depends on.

Images are [n, h, w, c] in [-1, 1], or slices [n, d, h, w, c]; every function returns [n] or [n, d].
"""

import jax.numpy as jnp

from jax_pix2pix.metrics.ssim import PROTOCOL as SSIM_PROTOCOL
from jax_pix2pix.metrics.ssim import ssim


def psnr(fake, target):
    """Computes the peak signal-to-noise ratio in dB; infinite for equal images."""
    squared = jnp.square(fake - target).mean((-3, -2, -1))
    return 10 * jnp.log10(4.0 / squared)


def mae(fake, target):
    """Computes the mean absolute error, in units of the [-1, 1] range."""
    return jnp.abs(fake - target).mean((-3, -2, -1))


def ct_metrics(window_hu):
    """Makes the metrics of a synthetic CT slice whose [-1, 1] spans window_hu.

    Returns:
        (compute, protocols): compute(fake, target) -> {name: [n] or [n, d]}; {name: text}.
    """
    low, high = window_hu

    def compute(fake, target):
        error = mae(fake, target)
        return {
            "ssim": ssim(fake, target),
            "psnr": psnr(fake, target),
            "mae_8bit": error * 127.5,
            "mae_hu": error * (high - low) / 2,
        }

    whole = "over all pixels of the slice, the generator's output not rounded"
    protocols = {
        "ssim": SSIM_PROTOCOL,
        "psnr": f"PSNR in dB, data range 255 of the 8-bit scale, mean squared error {whole}",
        "mae_8bit": f"mean absolute error in grey levels of the 8-bit scale, {whole}",
        "mae_hu": f"mean absolute error in HU inside the window [{low}, {high}], {whole}",
    }
    return compute, protocols
