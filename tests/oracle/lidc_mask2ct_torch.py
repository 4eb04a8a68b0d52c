"""Independent PyTorch pix2pix (LIDC mask -> CT): the tests' oracle and a benchmark peer.

Written from the specification alone. Images: NCHW, one channel, in [-1, 1], any float dtype.
"""

import numpy as np
import torch
import torch.nn.functional as F

from tests.oracle.pix2pix import PatchGAN, UNet
from tests.oracle.training import two_updates

DM_PIX_EPSILON = float(np.finfo(np.float32).eps) ** 2


class Generator(UNet):
    def __init__(self, width=64, depth=6, norm="instance", dropout=0.5):
        super().__init__(width, depth, norm, dropout)


class Discriminator(PatchGAN):
    """128x128 inputs give 14x14 logits."""

    def __init__(self, width=64):
        super().__init__(width, "instance")


def ssim(a, b, clip=False, epsilon=DM_PIX_EPSILON, max_val=2.0):
    """SSIM of each image [N], over 'valid' 11x11 Gaussian windows (sigma 1.5).

    ``clip=True`` is dm_pix's form: variances at least ``epsilon`` (there the square of float32's
    eps, in any dtype), |covariance| at most sqrt(var_a * var_b). ``maximum`` and ``minimum``
    split gradients evenly at ties, as jax.numpy's do (``clamp`` would not).
    """
    taps = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    taps = torch.softmax(-0.5 * (taps / 1.5) ** 2, 0)  # a Gaussian that sums to one
    moments = torch.stack([a, b, a * a, b * b, a * b]).flatten(0, 2).unsqueeze(1)
    moments = F.conv2d(F.conv2d(moments, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    mu_a, mu_b, aa, bb, ab = moments.view(5, *a.shape[:2], *moments.shape[2:])
    var_a, var_b, cov = aa - mu_a * mu_a, bb - mu_b * mu_b, ab - mu_a * mu_b
    if clip:
        floor = torch.full_like(var_a, epsilon)
        var_a, var_b = torch.maximum(floor, var_a), torch.maximum(floor, var_b)
        cov = torch.sign(cov) * torch.minimum(torch.sqrt(var_a * var_b), torch.abs(cov))
    c1, c2 = (0.01 * max_val) ** 2, (0.03 * max_val) ** 2
    numerator = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
    denominator = (mu_a * mu_a + mu_b * mu_b + c1) * (var_a + var_b + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def _pull(logits, target, kind):
    """The mean BCE ('bce') or squared error ('lsgan') of logits against one target."""
    loss = {"bce": F.binary_cross_entropy_with_logits, "lsgan": F.mse_loss}[kind]
    return loss(logits, torch.full_like(logits, target))


def discriminator_loss(real_logits, fake_logits, adversarial="bce"):
    """Half the sum of the real and the fake term; 'bce', 'lsgan' or 'hinge'."""
    if adversarial == "hinge":
        return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
    return 0.5 * (_pull(real_logits, 1.0, adversarial) + _pull(fake_logits, 0.0, adversarial))


def generator_loss(
    fake_logits, fake, ct, adversarial="bce", l1_weight=100.0, ssim_weight=5.0, clip=False
):
    """Dict: ``loss_g`` and its unweighted parts ``adversarial``, ``l1``, ``ssim`` (1 - SSIM)."""
    adv = -fake_logits.mean() if adversarial == "hinge" else _pull(fake_logits, 1.0, adversarial)
    l1, structure = F.l1_loss(fake, ct), 1 - ssim(fake, ct, clip).mean()
    total = adv + l1_weight * l1 + ssim_weight * structure
    return {"loss_g": total, "adversarial": adv, "l1": l1, "ssim": structure}


def step(
    generator, discriminator, mask, ct, dropout_masks=None, *, dropout_layout="NCHW",
    adversarial="bce", l1_weight=100.0, ssim_weight=5.0, clip=False, **options,
):  # fmt: skip
    """``training.two_updates`` with these ``options``.

    ``real_logits`` and ``fake_logits`` come from D before its update, ``fake_logits_g`` after it.
    """
    fake = generator(mask, dropout_masks, dropout_layout)

    def judge(fake):
        real, generated = (discriminator(mask, image)[-1] for image in (ct, fake))
        loss = discriminator_loss(real, generated, adversarial)
        return {"real_logits": real, "fake_logits": generated, "loss_d": loss}

    def create(fake):
        logits = discriminator(mask, fake)[-1]
        parts = generator_loss(logits, fake, ct, adversarial, l1_weight, ssim_weight, clip)
        return {"fake_logits_g": logits, **parts}

    return two_updates(generator, discriminator, fake, judge, create, **options)
