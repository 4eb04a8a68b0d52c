"""The oracles themselves: shapes, closed forms of their sizes, and the direction of training."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from tests.oracle import ct_pyramid_torch, lidc_mask2ct_torch, liver_torch, xray_lungs_torch
from tests.oracle.training import adam


def _size(module):
    return sum(p.numel() for p in module.parameters())


def test_lidc_mask2ct():
    g, d = lidc_mask2ct_torch.Generator(), lidc_mask2ct_torch.Discriminator()
    assert (_size(g), _size(d)) == (29_235_585, 2_763_713)
    x = torch.rand(1, 1, 128, 128) * 2 - 1
    with torch.no_grad():
        assert g(x).shape == x.shape
        shapes = [tuple(f.shape[1:]) for f in d(x, x)]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 15, 15), (1, 14, 14)]


def test_ssim_is_scikit_images():
    torch.manual_seed(0)
    a = torch.rand(2, 1, 40, 48, dtype=torch.float64) * 2 - 1
    b = (a + 0.3 * torch.randn_like(a)).clamp(-1, 1)
    options = {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "data_range": 2}
    options["use_sample_covariance"] = False
    ours = lidc_mask2ct_torch.ssim(a, b)
    for u, v, value in zip(a, b, ours, strict=True):
        full = structural_similarity(u[0].numpy(), v[0].numpy(), full=True, **options)[1]
        assert abs(full[5:-5, 5:-5].mean() - value.item()) < 1e-10
    clipped = lidc_mask2ct_torch.ssim(a, b, clip=True)
    torch.testing.assert_close(ours, clipped, rtol=0, atol=1e-10)


def test_xray_lungs():
    """The official code's U-Net 256 for 3 -> 3 channels has 54,414,979 parameters."""
    to_one_channel = 2 * (128 * 16 + 1)
    no_norm_at_one_pixel = 2 * 512
    published = xray_lungs_torch.Generator(source_channels=3, norm="batch")
    assert _size(published) == 54_414_979 - to_one_channel - no_norm_at_one_pixel
    norms = 2 * (128 + 256 + 4 * 512) + 2 * (4 * 512 + 256 + 128 + 64)
    g, d = xray_lungs_torch.Generator(), xray_lungs_torch.Discriminator()
    assert _size(g) == _size(published) - norms - 2 * 64 * 16
    assert _size(d) == 16 * (2 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 * 15 + 1
    x = torch.zeros(1, 1, 256, 256)
    with torch.no_grad():
        assert g(x).shape == x.shape
        assert d(x, x)[-1].shape == (1, 1, 30, 30)


def test_xray_lungs_losses_by_hand():
    """Logits of 0 cost ln 2 each; the discriminator's loss is their sum, not their mean."""
    g = xray_lungs_torch.Generator(2, 5).double()
    d = xray_lungs_torch.Discriminator(2).double()
    for module in (g.up[-1], d.layers[-1]):
        torch.nn.init.zeros_(module.weight)
    x = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    out = xray_lungs_torch.step(g, d, x, torch.full_like(x, -0.25), learning_rate=0.0)
    assert out["loss_d"] == pytest.approx(2 * np.log(2))
    assert out["loss_g"] == pytest.approx(np.log(2) + 100 * 0.25)


@pytest.mark.parametrize("ndim", [2, 3])
def test_liver(ndim):
    width, area, strided = 4, 3**ndim, 4**ndim
    for classes in (1, 3):
        g = liver_torch.Generator(width, classes, ndim)
        d = liver_torch.Critic(width, classes, ndim, "none")
        down = strided * (width + width**2 * (2 + 8 + 32)) + width + 2 * width * (2 + 4 + 8)
        up = area * width**2 * (32 + 8 + 2) + 2 * width * (4 + 2 + 1)
        assert _size(g) == down + up + classes * (area * width + 1)
        products = max(classes - 1, 1)
        assert _size(d) == (
            area * (products * width + 2 * width**2 + 2 * width) + 1 + 2 * width * (1 + 2)
        )
        x = torch.rand(2, 1, *[32] * ndim) * 2 - 1
        masks = g(x)
        assert masks.shape == (2, classes, *[32] * ndim)
        assert 0 < masks.min() and masks.max() < 1
        if classes > 1:
            torch.testing.assert_close(masks.sum(1), torch.ones_like(x[:, 0]))
        assert [tuple(f.shape) for f in d(x, masks)] == [
            (2, channels, *[8] * ndim) for channels in (width, 2 * width, 1)
        ]


def test_liver_default_size():
    """The closed form above holds at width 64 and 128."""
    assert _size(liver_torch.Generator()) == 4_305_153
    assert _size(liver_torch.Critic(constraint="none")) == 299_137


def test_published_liver_masks_are_blocks():
    torch.manual_seed(0)
    masks = liver_torch.Generator(4, as_published=True)(torch.rand(1, 1, 32, 32))
    blocks = masks.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert masks.max() > 0 and (blocks == blocks[..., :1]).all()


def test_critic_sees_the_image_under_the_foreground_only():
    critic = liver_torch.Critic(4, 3, constraint="none").eval()
    source = torch.rand(1, 1, 16, 16) * 2 - 1
    masks = torch.zeros(1, 3, 16, 16)
    masks[:, 1, :8], masks[:, 0, 8:] = 1, 1
    other = source.clone()
    other[:, :, 8:] = 0.3  # changes the background only
    for a, b in zip(critic(source, masks), critic(other, masks), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    black, nothing = torch.full_like(source, -1), torch.zeros_like(masks)
    for a, b in zip(critic(black, masks), critic(source, nothing), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(critic(source, masks)[0], critic(source.flip(2), masks)[0])


def test_spectral_norm_is_the_power_iteration_of_the_paper():
    """From any u: v = W'u, u = Wv, both normalised, sigma = u'Wv; it ends at the largest value."""
    torch.manual_seed(0)
    critic = liver_torch.Critic(4).double()
    layer, u = critic.layers[1], critic.vectors[1]
    weight = layer.parametrizations.weight.original.detach()
    u.copy_(torch.randn_like(u))
    start, matrix = u.clone(), weight.flatten(1)
    v = matrix.T @ start
    v /= v.norm()
    end = matrix @ v
    sigma = end.norm()
    torch.testing.assert_close(layer.weight, weight / sigma)
    torch.testing.assert_close(u, end / sigma)
    for _ in range(1000):
        value = layer.weight
    assert torch.linalg.matrix_norm(value.flatten(1), 2).item() == pytest.approx(1, abs=1e-9)


def _only_the_critic(constraint, as_published):
    """-> the distance at each step while only the critic trains."""
    torch.manual_seed(0)
    generator = liver_torch.Generator(4).double()
    critic = liver_torch.Critic(8, constraint=constraint).double()
    source = torch.rand(2, 1, 32, 32, dtype=torch.float64) * 2 - 1
    mask = (source > 0).double()
    options = {
        "optimizer_g": torch.optim.SGD(generator.parameters(), 0.0),
        "optimizer_d": adam(critic, 1e-3),
    }
    steps = [
        liver_torch.step(generator, critic, source, mask, as_published=as_published, **options)
        for _ in range(20)
    ]
    if constraint == "clip":
        assert max(p.abs().max() for p in critic.parameters()) <= liver_torch.CLIP
    return [float(out["distance"]) for out in steps]


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["spectral", "clip"])
def test_critic_maximises_the_distance_and_the_published_one_minimises_it(constraint):
    # At its first step "clip" has not clipped yet.
    up = _only_the_critic(constraint, False)[1:]
    down = _only_the_critic(constraint, True)[1:]
    assert up[-1] > 1.1 * up[0]
    assert down[-1] < 0.9 * down[0]


def test_ct_pyramid_sizes():
    """Weights per channel pair: 27 in 3D, 9 in 2D, 16 if transposed; a norm has two per channel."""
    volumes, slabs = ct_pyramid_torch.VolumeGenerator(), ct_pyramid_torch.SlabGenerator(7)
    assert _size(volumes) == 27 * (2 * 32 + 3 * 32**2) + 1 + 4 * 2 * 32
    assert _size(slabs) == (
        9 * (2 * 7 * 256 + 12 * 256**2) + 3 * (16 * 256**2 + 256) + 256 + 7 + 12 * 2 * 256
    )
    d = ct_pyramid_torch.Discriminator()
    assert _size(d) == 27 * (2 * 16 + 3 * 16**2) + 1 + 4 * 2 * 16
    volume, slab = torch.zeros(2, 1, 4, 9, 11), torch.zeros(1, 7, 9, 14)
    assert volumes.noise_size((4, 9, 11)) == (14, 19, 21)
    assert slabs.noise_size((9, 14)) == (24, 24)
    with torch.no_grad():
        assert volumes(volume, torch.zeros(2, 1, 14, 19, 21)).shape == volume.shape
        assert slabs(slab, torch.zeros(1, 7, 24, 24)).shape == slab.shape
        assert [tuple(f.shape) for f in d(volume)] == [(2, c, 4, 9, 11) for c in (16,) * 4 + (1,)]


def test_ct_pyramid_losses_by_hand():
    """With a last layer of 0, logits are 0 and an image is the coarser one."""
    g, d = ct_pyramid_torch.VolumeGenerator(2).double(), ct_pyramid_torch.Discriminator(2).double()
    for module in (g.layers[-1], d.layers[-1]):
        torch.nn.init.zeros_(module.weight)
    image, noise = torch.full((1, 1, 3, 4, 5), 0.5).double(), torch.ones(1, 1, 13, 14, 15).double()
    real = image - 0.1
    pair = (image, noise)
    options = {"residual": True, "learning_rate": 0.0, "segmenter": lambda x: 2 * x}
    judged, created = ct_pyramid_torch.step(g, d, real, [pair] * 3, pair, **options)
    assert [loss["loss_d"] for loss in judged] == pytest.approx([1, 1, 1])
    assert created[0]["projection"] == pytest.approx(0.01)
    total = 0.81 + 100 * 0.01 + 100 * 0.01 + 10 * 0.04
    assert [loss["loss_g"] for loss in created] == pytest.approx([total] * 3)
    # Wasserstein: a zero gradient is 1 away from the norm that the penalty asks for.
    ones = [torch.ones(1, 1, 1, 1, 1).double()] * 3
    judged, _ = ct_pyramid_torch.step(
        g, d, real, [pair] * 3, pair, adversarial="wgan", epsilons=ones, **options
    )
    assert judged[0]["loss_d"] == pytest.approx(0.1)


def test_ct_pyramid_projections_by_hand():
    """One bright voxel is 1 in a maximum projection, and 1 / length of the axis in a mean one."""
    real = torch.zeros(1, 1, 2, 3, 4)
    fake = real.clone()
    fake[..., 1, 2, 3] = 1
    squares = [(1 / 12, 2), (1 / 8, 3), (1 / 6, 4)]  # share of a projection's pixels, length
    expected = sum(share * (1 + 1 / length**2) for share, length in squares) / 6
    assert ct_pyramid_torch.intensity_projections(fake, real) == pytest.approx(expected)
    slab = [x[:, 0] for x in (fake, real)]
    assert ct_pyramid_torch.intensity_projections(*slab) == pytest.approx(expected)
    assert ct_pyramid_torch.boundary_slices(fake, real) == 0
