"""Compares a synthetic CT with the real one by named protocols, each with all its settings.

The same pair of volumes scores quite differently under settings in common use: masked or not,
clipped or not, in 2D or 3D. A score therefore means nothing without the name of its protocol, and
a protocol that changes gets a new version.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics import ssim as gaussian
from jax_pix2pix.metrics.ssim import K1, K2
from jax_pix2pix.metrics.ssim import MS_WEIGHTS as SCALE_WEIGHTS

SIDE = 7  # voxels a side of the uniform window
_RADIUS = SIDE // 2
SMALLEST = 97  # voxels: leaves one whole window at the last scale


class Protocol(NamedTuple):
    """A way to compare volumes.

    Attributes:
        version: goes up when a value would change.
        text: every setting, in words.
        score: (ct, sct, mask) -> {"mae": HU, "psnr": dB, "ssim" or "ms_ssim"}, floats, NaN where
            undefined. CTs are HU [d, h, w], the mask of the body is bool.
    """

    version: int
    text: str
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]


def compare(ct, sct, mask, names=None):
    """Scores under several protocols.

    Args:
        ct, sct: HU [d, h, w], integers or floats; slices from feet to head, rows from front to
            back, columns from right to left, which the halving of `synthrad2025` depends on.
        mask: bool [d, h, w], the body.
        names: of PROTOCOLS; None is all of them.

    Returns:
        {protocol: {"mae", "psnr", "ssim" or "ms_ssim": float}}, NaN where undefined; "psnr" is
        infinite for equal volumes.

    Raises:
        ConfigError: the mask is empty, a value is not finite, or there is no such protocol.
        ValueError: the shapes differ, or the mask is not bool.
    """
    names = PROTOCOLS if names is None else names
    check(ct, sct, mask)
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f'no protocol is called "{name}": use {", ".join(PROTOCOLS)}')
    ct, sct = np.asarray(ct, np.float64), np.asarray(sct, np.float64)
    return {name: PROTOCOLS[name].score(ct, sct, mask) for name in names}


def check(ct, sct, mask):
    """Checks two volumes in HU and their mask; raises as ``compare`` does."""
    if not ct.shape == sct.shape == mask.shape or ct.ndim != 3:
        shapes = f"{ct.shape}, {sct.shape} and {mask.shape}"
        raise ValueError(f"CT, synthetic CT and mask are {shapes}: use one shape [d, h, w]")
    if mask.dtype != bool:
        raise ValueError(f"the mask is {mask.dtype}: use bool")
    if not mask.any():
        raise ConfigError("the body mask is empty: give one that covers the patient")
    for name, values in (("CT", ct), ("synthetic CT", sct)):
        if not np.isfinite(values).all():
            raise ConfigError(f"the {name} holds values that are not finite: HU are needed")


def _synthrad2023(ct, sct, mask):
    low, high = -1024.0, 3000.0
    error = _mae(ct[mask], sct[mask])
    ct, sct = np.clip(ct, low, high), np.clip(sct, low, high)
    psnr = _psnr(ct[mask], sct[mask], high - low)
    ct, sct = (np.where(mask, values, low) - low for values in (ct, sct))
    inner = _inner(mask)
    ssim = np.nan
    if inner.any():
        # Only the windows of the voxels that count are computed.
        (box,) = scipy.ndimage.find_objects(inner.view(np.uint8))
        around = tuple(slice(side.start - _RADIUS, side.stop + _RADIUS) for side in box)
        ssim = uniform_ssim(ct[around], sct[around], high - low)[inner[around]].mean()
    return {"mae": error, "psnr": psnr, "ssim": float(ssim)}


def _synthrad2025(ct, sct, mask):
    low, high = -1024.0, 3071.0
    error = _mae(ct[mask], sct[mask])
    ct, sct = np.clip(ct, low, high), np.clip(sct, low, high)
    psnr = _psnr(ct[mask], sct[mask], high - low)
    missing = [max(0, SMALLEST - size) for size in mask.shape]
    margins = [(size // 2, size - size // 2) for size in missing]
    ct, sct = (np.pad(np.where(mask, x, low) - low, margins, mode="edge") for x in (ct, sct))
    mask = np.pad(mask, margins, mode="edge")
    ms_ssim = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            ct, sct, mask = _halved(ct), _halved(sct), mask[::2, ::2, ::2]
        inner = _inner(mask)
        if not inner.any():
            return {"mae": error, "psnr": psnr, "ms_ssim": np.nan}
        similarity = _three_parts(ct, sct, high - low)[inner] ** weight
        ms_ssim *= min(float(similarity.mean()), 1.0)
    return {"mae": error, "psnr": psnr, "ms_ssim": ms_ssim}


def _skimage_default(ct, sct, mask):
    del mask  # scikit-image takes none
    data_range = float(ct.max() - ct.min())
    ssim = np.nan
    if min(ct.shape) >= SIDE and data_range:
        inside = (slice(_RADIUS, -_RADIUS),) * 3
        ssim = uniform_ssim(ct, sct, data_range)[inside].mean()
    return {"mae": _mae(ct, sct), "psnr": _psnr(ct, sct, data_range), "ssim": float(ssim)}


def _dm_pix_2d(ct, sct, mask):
    low, high = -1024.0, 3000.0
    body = mask.any((1, 2))
    ct, sct = np.clip(ct[body], low, high), np.clip(sct[body], low, high)
    psnr = [_psnr(*pair, high - low) for pair in zip(ct, sct, strict=True)]
    ssim = np.nan
    if min(ct.shape[1:]) >= gaussian.WINDOW:
        images = ((x - low) / (high - low) * 2 - 1 for x in (ct, sct))
        # One by one: the intermediate images of all slices would be many times the volume.
        pairs = zip(*(x[..., None].astype(np.float32) for x in images), strict=True)
        ssim = np.mean([float(_slice_ssim(a, b)) for a, b in pairs])
    return {"mae": _mae(ct, sct), "psnr": float(np.mean(psnr)), "ssim": float(ssim)}


@jax.jit
def _slice_ssim(a, b):
    return jnp.squeeze(gaussian.ssim(a[None], b[None]))


def _mae(ct, sct):
    return float(np.abs(ct - sct).mean())


def _psnr(ct, sct, data_range):
    squared = np.square(ct - sct).mean()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(data_range**2 / squared)) if data_range else np.nan


def _inner(mask):
    """Removes voxels from the mask whose window would reach beyond the volume."""
    inner = np.zeros_like(mask)
    inside = (slice(_RADIUS, -_RADIUS),) * mask.ndim
    inner[inside] = mask[inside]
    return inner


def _moments(a, b, sides=(SIDE,) * 3):
    """Computes means, unbiased variances and covariance in the window around each voxel."""
    mean_a, mean_b, square_a, square_b, product = (
        scipy.ndimage.uniform_filter(x, sides) for x in (a, b, a * a, b * b, a * b)
    )
    voxels = math.prod(sides)
    unbiased = voxels / (voxels - 1)
    variance_a = unbiased * (square_a - mean_a * mean_a)
    variance_b = unbiased * (square_b - mean_b * mean_b)
    return mean_a, mean_b, variance_a, variance_b, unbiased * (product - mean_a * mean_b)


def _luminance(mean_a, mean_b, data_range):
    c1 = (K1 * data_range) ** 2
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)


def uniform_ssim(a, b, data_range, sides=(SIDE,) * 3):
    """Computes SSIM around each voxel in a window of odd sides and more than one voxel.

    a, b: float64 [d, h, w]. Values whose window reaches beyond the volume are not to be used.
    """
    mean_a, mean_b, variance_a, variance_b, covariance = _moments(a, b, sides)
    c2 = (K2 * data_range) ** 2
    similarity = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return similarity * _luminance(mean_a, mean_b, data_range)


def _three_parts(a, b, data_range):
    """Multiplies luminance, contrast and structure around each voxel, each at least zero."""
    mean_a, mean_b, variance_a, variance_b, covariance = _moments(a, b)
    c2 = (K2 * data_range) ** 2
    # Rounding may leave a flat window a variance below zero.
    deviations = np.sqrt(np.maximum(variance_a, 0) * np.maximum(variance_b, 0))
    contrast = (2 * deviations + c2) / (variance_a + variance_b + c2)
    structure = (covariance + c2 / 2) / (deviations + c2 / 2)
    parts = (_luminance(mean_a, mean_b, data_range), contrast, structure)
    return np.prod([np.maximum(part, 0) for part in parts], axis=0)


def _halved(volume):
    """Takes every other voxel of the means over 2 x 2 x 2, of a voxel and neighbours *before* it.

    Zero precedes the first voxel, as in the public evaluator's filter. It affects the windows next
    to the border.
    """
    for axis in range(volume.ndim):
        before = np.roll(volume, 1, axis)
        before[(slice(None),) * axis + (0,)] = 0
        volume = ((volume + before) / 2).take(range(0, volume.shape[axis], 2), axis)
    return volume


_UNIFORM = f"uniform window {SIDE} x {SIDE} x {SIDE}, k1 {K1}, k2 {K2}, unbiased variances, float64"
_NOT_MEASURED = "voxels within 3 of the volume's border left out"
PROTOCOLS = {
    "synthrad2023": Protocol(
        1,
        "as the public evaluator of SynthRAD2023 (github.com/SynthRAD2023/metrics). MAE: HU, not "
        "clipped, mean over the mask. PSNR: both clipped to [-1024, 3000] HU, range 4024, mean "
        "squared error over the mask. SSIM: 3D, both clipped to [-1024, 3000], outside the mask "
        f"-1024, then shifted to [0, 4024], range 4024, {_UNIFORM}, mean over the mask, "
        f"{_NOT_MEASURED}; fewer than {SIDE} voxels along an axis: undefined",
        _synthrad2023,
    ),
    "synthrad2025": Protocol(
        1,
        "as the public evaluator of SynthRAD2025 (github.com/SynthRAD2025/evaluation). MAE: HU, "
        "not clipped, mean over the mask. PSNR: both clipped to [-1024, 3071] HU, range 4095, mean "
        "squared error over the mask. MS-SSIM: 3D, both clipped to [-1024, 3071], outside the mask "
        "-1024, then shifted to [0, 4095], range 4095; volume and mask padded with their border "
        f"values to at least {SMALLEST} voxels an axis; {len(SCALE_WEIGHTS)} scales, between them "
        "means over 2 x 2 x 2 and every other voxel, of the mask every other voxel; at every scale "
        "luminance x contrast x structure, each at least 0 and raised to the scale's weight "
        f"({', '.join(map(str, SCALE_WEIGHTS))}), {_UNIFORM}, mean over the mask, {_NOT_MEASURED}; "
        "the product over the scales; no voxel of the mask left at a scale: undefined",
        _synthrad2025,
    ),
    "skimage_default": Protocol(
        1,
        "scikit-image's structural_similarity (SSIM) and peak_signal_noise_ratio (PSNR) without "
        "options, over the whole volume, no mask, not clipped; data_range: largest less smallest "
        f"HU of the real CT. SSIM: 3D, {_UNIFORM}, {_NOT_MEASURED}; fewer than {SIDE} voxels along "
        "an axis: undefined. MAE: HU, over the whole volume",
        _skimage_default,
    ),
    "dm_pix_2d": Protocol(
        1,
        "slice by slice, all pixels of the slices that the mask touches, both clipped to "
        "[-1024, 3000] HU. MAE: HU. PSNR: range 4024, mean of the slices' dB. SSIM: mean of the "
        f"slices' {gaussian.PROTOCOL}; fewer than {gaussian.WINDOW} pixels a side: undefined",
        _dm_pix_2d,
    ),
}
