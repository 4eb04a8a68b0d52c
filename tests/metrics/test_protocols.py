"""Protocols against scikit-image and against definitions written out window by window."""

import numpy as np
import pytest
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics.protocols import PROTOCOLS, compare
from tests.synthetic_ct import abdomen_pair, random_pair

PAIRS = {
    "flat": lambda: random_pair((9, 40, 33)),
    "cube": lambda: random_pair((31, 30, 37), seed=1),
    "abdomen": abdomen_pair,
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


def _inside(mask):
    """Whether each voxel is in the mask with its window of 7 inside the volume."""
    inside = np.zeros_like(mask)
    inside[3:-3, 3:-3, 3:-3] = mask[3:-3, 3:-3, 3:-3]
    return inside


def _scaled_parts(a, b, mask, data_range, weight):
    """Mean over the mask of (luminance x contrast x structure) ** weight, window by window."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for z, y, x in np.argwhere(_inside(mask)):
        window = (slice(z - 3, z + 4), slice(y - 3, y + 4), slice(x - 3, x + 4))
        p, q = a[window].ravel(), b[window].ravel()
        sp, sq, spq = p.std(ddof=1), q.std(ddof=1), np.cov(p, q)[0, 1]
        luminance = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
        contrast = (2 * sp * sq + c2) / (sp**2 + sq**2 + c2)
        structure = (spq + c2 / 2) / (sp * sq + c2 / 2)
        values.append(
            np.prod([max(0, part) ** weight for part in (luminance, contrast, structure)])
        )
    return np.mean(values)


def test_synthrad2023_is_scikit_images_within_the_mask(pair):
    ct, sct, mask = pair
    clipped = [np.clip(x.astype(float), -1024, 3000) for x in (ct, sct)]
    shifted = [np.where(mask, x, -1024) + 1024 for x in clipped]
    _, similarity = structural_similarity(*shifted, data_range=4024, full=True)
    expected = {
        "mae": sum(abs(float(a) - b) for a, b in zip(ct[mask], sct[mask], strict=True))
        / mask.sum(),
        "psnr": peak_signal_noise_ratio(*(x[mask] for x in clipped), data_range=4024),
        "ssim": similarity[_inside(mask)].mean(),
    }
    assert compare(ct, sct, mask)["synthrad2023"] == pytest.approx(expected, rel=1e-9)
    # The evaluator itself casts to float32 first.
    _, similarity = structural_similarity(
        *(x.astype(np.float32) for x in shifted), data_range=4024, full=True
    )
    expected = similarity[_inside(mask)].mean()
    assert compare(ct, sct, mask)["synthrad2023"]["ssim"] == pytest.approx(expected, abs=1e-5)


def test_skimage_default_is_scikit_images(pair):
    ct, sct, mask = pair
    ct, sct = ct.astype(float), sct.astype(float)
    data_range = ct.max() - ct.min()
    expected = {
        "mae": np.abs(ct - sct).mean(),
        "psnr": peak_signal_noise_ratio(ct, sct, data_range=data_range),
        "ssim": structural_similarity(ct, sct, data_range=data_range),
    }
    assert compare(ct, sct, mask)["skimage_default"] == pytest.approx(expected, rel=1e-9)


def test_dm_pix_2d_is_scikit_images_gaussian_form_slice_by_slice(pair):
    ct, sct, mask = pair
    mask = mask.copy()
    mask[1] = False
    slices = [i for i in range(len(mask)) if mask[i].any()]
    assert 1 not in slices and len(slices) > 2
    windowed = [np.clip(x.astype(float), -1024, 3000) for x in (ct, sct)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = [
        structural_similarity(
            *((x[i] + 1024) / 2012 - 1 for x in windowed), data_range=2, full=True, **options
        )[1][5:-5, 5:-5].mean()
        for i in slices
    ]
    psnr = [peak_signal_noise_ratio(*(x[i] for x in windowed), data_range=4024) for i in slices]
    scores = compare(ct, sct, mask, ["dm_pix_2d"])["dm_pix_2d"]
    assert scores["ssim"] == pytest.approx(np.mean(ssim), abs=1e-5)
    assert scores["psnr"] == pytest.approx(np.mean(psnr), rel=1e-9)
    error = np.abs(windowed[0] - windowed[1])[slices].mean()
    assert scores["mae"] == pytest.approx(error, rel=1e-9)


def _ms_ssim(ct, sct, mask):
    """(MS-SSIM of volumes in [-1024, 3071] HU by its definition, each scale's value)."""
    missing = [max(0, 97 - size) for size in mask.shape]
    margin = [(size // 2, size - size // 2) for size in missing]
    images = [np.pad(np.where(mask, x, -1024) + 1024.0, margin, "edge") for x in (ct, sct)]
    mask, scales = np.pad(mask, margin, "edge"), []
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        scales.append(_scaled_parts(*images, mask, 4095, weight))
        means = [fftconvolve(x, np.full((2, 2, 2), 1 / 8), mode="same") for x in images]
        images, mask = [x[::2, ::2, ::2] for x in means], mask[::2, ::2, ::2]
    return np.prod(scales), scales


def _some_of(mask):
    """One of 200 voxels of a mask, and all around its middle, which the last scale uses."""
    some = mask & (np.random.default_rng(3).random(mask.shape) < 0.005)
    middle = tuple(slice(48 - max(0, 97 - n) // 2, 50 - max(0, 97 - n) // 2) for n in mask.shape)
    some[middle] = mask[middle]
    return some


@pytest.mark.parametrize("shape", [(98, 30, 120), (97, 131, 20), "abdomen"])
def test_synthrad2025_by_its_definition(shape):
    ct, sct, mask = abdomen_pair() if shape == "abdomen" else random_pair(shape, seed=2)
    mask = _some_of(np.ones_like(mask))
    ct, sct = ct.astype(float), sct.astype(float)
    clipped = [np.clip(x, -1024, 3071) for x in (ct, sct)]
    ms_ssim, scales = _ms_ssim(*clipped, mask)
    assert all(0 < scale < 1 for scale in scales)
    expected = {
        "mae": np.abs(ct - sct)[mask].mean(),
        "psnr": peak_signal_noise_ratio(*(x[mask] for x in clipped), data_range=4095),
        "ms_ssim": ms_ssim,
    }
    scores = compare(ct, sct, mask, ["synthrad2025"])["synthrad2025"]
    assert scores == pytest.approx(expected, rel=1e-9)


def test_equal_volumes():
    ct, _, mask = random_pair((20, 30, 30))
    for name, scores in compare(ct, ct, mask).items():
        assert scores.pop("mae") == 0 and scores.pop("psnr") == np.inf, name
        assert list(scores.values()) == pytest.approx([1], abs=1e-6), name


def test_what_lies_outside_the_mask_does_not_count():
    ct, sct, mask = random_pair((20, 30, 30))
    names = ["synthrad2023", "synthrad2025"]
    elsewhere = np.where(mask, sct, 500)
    assert compare(ct, sct, mask, names) == compare(ct, elsewhere, mask, names)


def test_what_is_too_small_is_undefined():
    ct, sct, mask = random_pair((5, 30, 9))
    scores = compare(ct, sct, mask)
    assert np.isnan(
        [scores[n]["ssim"] for n in ("synthrad2023", "skimage_default", "dm_pix_2d")]
    ).all()
    corner = np.zeros((20, 30, 30), bool)
    corner[:3, :3, :3] = True  # no voxel has a whole window
    ct, sct, _ = random_pair(corner.shape)
    scores = compare(ct, sct, corner, ["synthrad2023", "synthrad2025"])
    assert np.isnan(scores["synthrad2023"]["ssim"]) and np.isnan(scores["synthrad2025"]["ms_ssim"])
    assert scores["synthrad2023"]["mae"] > 0
    level = np.full((20, 30, 30), -1000.0)
    assert np.isnan(compare(level, sct, corner)["skimage_default"]["ssim"])


def test_every_protocol_states_its_version_and_settings():
    for protocol in PROTOCOLS.values():
        assert protocol.version >= 1
        for word in ("MAE", "PSNR", "SSIM", "range", "mask"):
            assert word in protocol.text


def test_refusals():
    ct, sct, mask = random_pair((8, 20, 20))
    with pytest.raises(ValueError, match=r"\(8, 20, 20\), \(7, 20, 20\)"):
        compare(ct, sct[1:], mask)
    with pytest.raises(ValueError, match="uint8: use bool"):
        compare(ct, sct, mask.astype(np.uint8))
    with pytest.raises(ConfigError, match="body mask is empty"):
        compare(ct, sct, np.zeros_like(mask))
    with pytest.raises(ConfigError, match="synthetic CT holds values that are not finite"):
        compare(ct, np.where(mask, np.nan, sct), mask)
    with pytest.raises(ConfigError, match='"synthrad2024": use synthrad2023'):
        compare(ct, sct, mask, ["synthrad2024"])
