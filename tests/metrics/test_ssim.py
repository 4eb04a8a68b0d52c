"""SSIM against scikit-image and against dm_pix's own filter."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from jax_pix2pix.metrics import ssim


def _pair(noise=0.3):
    rng = np.random.default_rng(0)
    a = np.cumsum(rng.normal(size=(2, 40, 48, 1)), axis=1)
    a = a / np.abs(a).max()
    return a, np.clip(a + noise * rng.normal(size=a.shape), -1, 1)


@pytest.mark.parametrize("form", ["dm_pix", "unclipped"])
def test_equals_scikit_images_gaussian_form(float64, form):
    a, b = _pair()
    maps = [
        structural_similarity(
            x[..., 0],
            y[..., 0],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            full=True,
        )[1][5:-5, 5:-5]
        for x, y in zip(a, b, strict=True)
    ]
    expected = [x.mean() for x in maps]
    np.testing.assert_allclose(ssim.SSIM_FORMS[form](a, b), expected, rtol=1e-9)


def test_filter_is_dm_pixs():
    a, b = (x.astype(np.float32) for x in _pair())
    np.testing.assert_allclose(ssim.ssim(a, b), dm_pix.ssim(a, b, max_val=2.0), atol=1e-5)


@pytest.mark.parametrize("form", ssim.SSIM_FORMS.values())
def test_slices_of_volumes_are_scored_one_by_one(form):
    a, b = (x.reshape(2, 3, 16, 12, 1) for x in np.random.default_rng(0).uniform(-1, 1, (2, 1152)))
    apart = np.stack([form(*pair) for pair in zip(a, b, strict=True)])
    assert apart.shape == (2, 3)
    np.testing.assert_allclose(form(a, b), apart, rtol=1e-6)


def test_identical_images_score_one():
    a, _ = _pair()
    a = jnp.asarray(a, jnp.float32)
    np.testing.assert_allclose(ssim.ssim(a, a), 1, atol=1e-5)
    np.testing.assert_allclose(ssim.unclipped_ssim(a, a), 1, atol=1e-5)


def test_only_the_unclipped_form_has_its_full_gradient_on_a_flat_image():
    """On a flat image dm_pix's clipping leaves little of the gradient in float32."""
    a = jnp.asarray(_pair()[0], jnp.float32)

    def size(form):
        return float(jnp.linalg.norm(jax.grad(lambda x: form(x, a).sum())(jnp.full_like(a, -0.5))))

    assert size(ssim.ssim) < 0.05 * size(ssim.unclipped_ssim)
