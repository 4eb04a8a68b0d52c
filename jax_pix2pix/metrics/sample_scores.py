"""Scores a generator of volumes from noise: its memorisation, and its samples.

No single score here says that samples are good. A generator that has memorised its training volume
reconstructs it perfectly and is near to it in every distance, and noise has the highest diversity.
The scores are to be read together, and beside those of held-out volumes.
"""

from typing import NamedTuple

import numpy as np
import scipy

from jax_pix2pix.metrics.protocols import SIDE, uniform_ssim
from jax_pix2pix.metrics.ssim import K1, K2

_OVER_TRAINING = "mean over the training volumes"
PROTOCOLS = {
    "memorisation": "a measure of memorisation, not of quality: the generator's output of its "
    "fixed noise, which training drew to the training volume, against that volume, at the finest "
    "scale, intensities in [0, 1] and clipped to that, over all voxels",
    "mse": "of memorisation: mean squared error",
    "psnr": "of memorisation: PSNR in dB, data range 1",
    "ssim": f"of memorisation: 3D SSIM, data range 1, uniform window of {SIDE} voxels an axis, or "
    f"of the largest odd number of voxels where an axis has fewer, k1 {K1}, k2 {K2}, unbiased "
    "variances, float64, windows within the volume; where no axis has 7 or fewer voxels this is "
    "scikit-image's default",
    "diversity": "standard deviation of each voxel over the samples, mean over voxels, divided by "
    "the standard deviation of the training volume's intensities (Shaham et al., SinGAN, ICCV "
    "2019, over 100 samples); of several training volumes, by the mean of theirs",
    "diversity_hu": "the same in HU, not divided",
    "sifid": "Frechet distance of the Gaussians of two volumes' feature vectors over positions, "
    "after SinGAN's single-image FID. The features are the last hidden ones of this run's own "
    "discriminator at the finest scale, not Inception's: values compare volumes within one run, "
    f"not runs, nor with published ones; {_OVER_TRAINING}",
    "hu_histogram_distance": "Wasserstein-1 distance of the histograms of HU rounded to whole "
    f"ones, in HU; {_OVER_TRAINING}",
    "nearest_rmse_hu": "root mean squared difference to the nearest training volume, voxel by "
    "voxel, in HU; of held-out volumes it says how far another patient is",
}


def memorisation(reconstruction, real):
    """Scores how well a training volume is reconstructed; see PROTOCOLS.

    Args:
        reconstruction, real: [d, h, w] in [0, 1].

    Returns:
        {"mse", "psnr", "ssim": float}; PSNR is infinite for equal volumes, SSIM NaN where every
        axis has one or two voxels.
    """
    a, b = np.asarray(reconstruction, np.float64), np.asarray(real, np.float64)
    mse = float(np.square(a - b).mean())
    with np.errstate(divide="ignore"):
        psnr = float(-10 * np.log10(mse))
    sides = tuple(min(SIDE, size - 1 + size % 2) for size in a.shape)
    ssim = np.nan
    if max(sides) > 1:
        inside = tuple(
            slice(side // 2, size - side // 2) for side, size in zip(sides, a.shape, strict=True)
        )
        ssim = float(uniform_ssim(a, b, 1.0, sides)[inside].mean())
    return {"mse": mse, "psnr": psnr, "ssim": ssim}


def diversity(samples, training_deviation):
    """Scores how much samples differ from each other; see PROTOCOLS.

    Args:
        samples: HU [n, d, h, w], two or more.
        training_deviation: the standard deviation of the training volume's HU, or of several the
            mean.

    Returns:
        {"diversity": float, NaN for a constant training volume; "diversity_hu": float}.
    """
    hu = float(np.std(np.asarray(samples, np.float64), 0).mean())
    ratio = hu / training_deviation if training_deviation else np.nan
    return {"diversity": ratio, "diversity_hu": hu}


class Facts(NamedTuple):
    """Holds what `distances` needs of a volume.

    hu: float32 [d, h, w].
    lowest, counts: the histogram of whole HU; counts[0] is at the lowest.
    mean, covariance: of the feature vectors over positions, float64 [c] and [c, c].
    """

    hu: np.ndarray
    lowest: int
    counts: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def facts(hu, features):
    """Computes Facts of HU [d, h, w] and features [*positions, c] at two or more positions."""
    whole = np.rint(hu).astype(np.int64)
    vectors = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    return Facts(
        hu=np.asarray(hu, np.float32),
        lowest=int(whole.min()),
        counts=np.bincount((whole - whole.min()).ravel()),
        mean=vectors.mean(0),
        covariance=np.atleast_2d(np.cov(vectors, rowvar=False)),
    )


def distances(a, b):
    """Compares volumes of one shape: Facts -> {"sifid", "hu_histogram_distance", "rmse_hu"}."""
    squared = np.square(np.subtract(a.hu, b.hu, dtype=np.float64)).mean()
    return {
        "sifid": sifid(a, b),
        "hu_histogram_distance": hu_histogram_distance(a, b),
        "rmse_hu": float(np.sqrt(squared)),
    }


def sifid(a, b):
    """Computes the squared Frechet distance of two volumes' feature Gaussians: Facts -> float.

    |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)); the last trace is that of the
    symmetric (R C_b R)^(1/2) with R = C_a^(1/2), which has real roots where C_a C_b is singular.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    overlap = 2 * np.sqrt(np.maximum(between, 0)).sum()
    # Rounding may leave equal Gaussians a distance just below zero.
    return float(np.square(a.mean - b.mean).sum() + max(traces - overlap, 0))


def hu_histogram_distance(a, b):
    """Computes the Wasserstein-1 distance of two volumes' histograms in HU: Facts -> float."""
    of_a, of_b = (np.arange(x.lowest, x.lowest + len(x.counts)) for x in (a, b))
    return float(scipy.stats.wasserstein_distance(of_a, of_b, a.counts, b.counts))


def over_training(of_pairs):
    """Summarises a volume's `distances` to each of the training volumes; see PROTOCOLS."""
    columns = {name: [pair[name] for pair in of_pairs] for name in of_pairs[0]}
    return {
        "sifid": float(np.mean(columns["sifid"])),
        "hu_histogram_distance": float(np.mean(columns["hu_histogram_distance"])),
        "nearest_rmse_hu": min(columns["rmse_hu"]),
    }
