"""Scores of samples against scikit-image, SciPy, closed forms and written-out definitions."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from jax_pix2pix.metrics import sample_scores
from jax_pix2pix.metrics.sample_scores import distances, diversity, facts, memorisation


def _pair(shape):
    rng = np.random.default_rng(0)
    real = gaussian_filter(rng.uniform(size=shape), 1)
    real = (real - real.min()) / np.ptp(real)
    return np.clip(real + rng.normal(0, 0.1, shape), 0, 1), real


def test_memorisation_is_scikit_images_default():
    fake, real = _pair((8, 20, 17))
    scores = memorisation(fake, real)
    mse = sum((a - b) ** 2 for a, b in zip(fake.flat, real.flat, strict=True)) / real.size
    assert scores["mse"] == pytest.approx(mse, rel=1e-12)
    assert scores["psnr"] == pytest.approx(10 * np.log10(1 / mse), rel=1e-12)
    ssim = structural_similarity(fake, real, data_range=1)
    assert 0.1 < ssim < 0.9 and scores["ssim"] == pytest.approx(ssim, rel=1e-12)


@pytest.mark.parametrize("size, window", [(6, 5), (5, 5), (4, 3), (3, 3)])
def test_ssim_of_small_volumes_has_the_largest_odd_window(size, window):
    fake, real = _pair((size,) * 3)
    ssim = structural_similarity(fake, real, data_range=1, win_size=window)
    assert memorisation(fake, real)["ssim"] == pytest.approx(ssim, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_ssim_of_one_or_two_slices_is_the_slices(depth):
    fake, real = _pair((depth, 20, 17))
    of_slices = [
        structural_similarity(*pair, data_range=1) for pair in zip(fake, real, strict=True)
    ]
    assert memorisation(fake, real)["ssim"] == pytest.approx(np.mean(of_slices), rel=1e-12)


def test_ssim_of_a_flat_slab_window_by_window():
    fake, real = _pair((4, 9, 8))
    c1, c2, values = 0.01**2, 0.03**2, []
    for z in range(2):
        for y in range(3):
            for x in range(2):
                window = (slice(z, z + 3), slice(y, y + 7), slice(x, x + 7))
                a, b = fake[window].ravel(), real[window].ravel()
                luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
                structure = (2 * np.cov(a, b)[0, 1] + c2) / (a.var(ddof=1) + b.var(ddof=1) + c2)
                values.append(luminance * structure)
    assert memorisation(fake, real)["ssim"] == pytest.approx(np.mean(values), rel=1e-9)


def test_what_is_remembered_by_heart():
    _, real = _pair((8, 9, 10))
    scores = memorisation(real, real)
    assert scores == {"mse": 0, "psnr": np.inf, "ssim": pytest.approx(1)}
    assert np.isnan(memorisation(real[:2, :2, :1], real[:2, :2, :1])["ssim"])


def test_diversity_of_samples_about_a_volume():
    volume = np.random.default_rng(1).normal(-400, 500, (5, 6, 7))
    apart = np.array([30, 70]).reshape(2, 1, 1, 1)  # two samples 40 HU apart: deviation 20
    scores = diversity(volume + apart, 500.0)
    assert scores == pytest.approx({"diversity": 0.04, "diversity_hu": 20})
    assert diversity(np.stack([volume] * 3), 500.0)["diversity_hu"] == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(2).normal(0, 500, (2000, 4, 4, 4))
    assert diversity(noise, 500.0)["diversity"] == pytest.approx(1, abs=0.01)
    assert np.isnan(diversity(noise[:2], 0.0)["diversity"])


def _facts(seed, channels=5, positions=(3, 4, 6), scale=1.0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(seed, scale, (*positions, channels)) @ rng.normal(size=(channels, channels))
    return facts(rng.normal(-300, 200, (6, 7, 8)), mixed), mixed.reshape(-1, channels)


def test_sifid_is_the_frechet_distance_of_gaussians():
    (a, of_a), (b, of_b) = _facts(0), _facts(1, scale=2.0)
    c_a, c_b = np.cov(of_a.T), np.cov(of_b.T)
    mean = np.square(of_a.mean(0) - of_b.mean(0)).sum()
    expected = mean + np.trace(c_a + c_b - 2 * np.real(sqrtm(c_a @ c_b)))
    assert expected > 1 and sample_scores.sifid(a, b) == pytest.approx(expected, rel=1e-9)
    assert sample_scores.sifid(b, a) == pytest.approx(expected, rel=1e-9)
    assert sample_scores.sifid(a, a) == pytest.approx(0, abs=1e-7)


def test_sifid_of_one_feature_and_of_constant_ones():
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, (50, 1)), rng.normal(4, 3, (50, 1))
    a, b = facts(np.zeros((1, 2, 2)), x), facts(np.zeros((1, 2, 2)), y)
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert sample_scores.sifid(a, b) == pytest.approx(expected, rel=1e-9)
    # All positions are equal, so the covariances are singular.
    ones, twos = (facts(np.zeros((1, 2, 2)), np.full((50, 4), value)) for value in (1.0, 2.0))
    assert sample_scores.sifid(ones, twos) == pytest.approx(4)


def test_histogram_distance_is_the_shift_and_the_sorted_difference():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(4, 2))
    hu = np.rint(rng.normal(0, 300, (4, 5, 6)))
    other = np.rint(rng.normal(100, 50, hu.shape))
    a, shifted, b = (facts(x, features) for x in (hu, hu[::-1] + 37, other))
    assert sample_scores.hu_histogram_distance(a, shifted) == pytest.approx(37)
    # With equal counts of values it is the mean difference of the sorted ones.
    expected = np.abs(np.sort(hu.ravel()) - np.sort(other.ravel())).mean()
    assert sample_scores.hu_histogram_distance(a, b) == pytest.approx(expected, rel=1e-9)
    rounded = facts(hu + 0.4, features)
    assert sample_scores.hu_histogram_distance(a, rounded) == 0


def test_a_copy_is_found_among_the_training_volumes():
    (a, _), (b, _), (c, _) = (_facts(seed) for seed in range(3))
    pairs = [distances(b, other) for other in (a, b, c)]
    assert pairs[1] == pytest.approx(
        {"sifid": 0, "hu_histogram_distance": 0, "rmse_hu": 0}, abs=1e-7
    )
    rmse = np.sqrt(np.mean((b.hu.astype(float) - a.hu) ** 2))
    assert pairs[0]["rmse_hu"] == pytest.approx(rmse, rel=1e-9)
    scores = sample_scores.over_training(pairs)
    assert scores["nearest_rmse_hu"] == 0
    assert scores["sifid"] == pytest.approx((pairs[0]["sifid"] + pairs[2]["sifid"]) / 3)
    expected = np.mean([pair["hu_histogram_distance"] for pair in pairs])
    assert scores["hu_histogram_distance"] == pytest.approx(expected)


def test_every_score_has_a_protocol():
    fake, real = _pair((4, 9, 8))
    (a, _), (b, _) = _facts(0), _facts(1)
    named = {*memorisation(fake, real), *diversity(np.stack([fake, real]), 1.0)}
    named |= set(sample_scores.over_training([distances(a, b)]))
    assert named | {"memorisation"} == set(sample_scores.PROTOCOLS)
