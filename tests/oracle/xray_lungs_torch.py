"""Independent PyTorch oracle of chest X-ray -> lung mask: pix2pix as its paper and code have it.

Written from the specification alone. Images: NCHW in [-1, 1], the mask one channel, any float
dtype. The U-Net's bottleneck is one pixel: images have 2**depth pixels per side, 256 by default.
"""

import torch.nn.functional as F

from tests.oracle.pix2pix import PatchGAN, UNet
from tests.oracle.training import two_updates, unmoved


class Generator(UNet):
    """``norm``: "instance", or "batch" as published. The 1 x 1 map has none."""

    def __init__(self, width=64, depth=8, source_channels=1, norm="instance", dropout=0.5):
        super().__init__(width, depth, norm, dropout, source_channels, False, False)

    def forward(self, x, *dropout):
        assert x.shape[2:] == 2 * (2 ** len(self.down),), x.shape
        return super().forward(x, *dropout)


class Discriminator(PatchGAN):
    """256x256 inputs give 30x30 logits."""

    def __init__(self, width=64, source_channels=1, norm="instance"):
        super().__init__(width, norm, source_channels)


def _cross_entropy(logits, label):
    return F.binary_cross_entropy_with_logits(logits, logits.new_full(logits.shape, label))


def step(
    generator, discriminator, source, mask, dropout_masks=None, *, dropout_layout="NCHW",
    l1_weight=100.0, **options,
):  # fmt: skip
    """``training.two_updates`` with these ``options``: logits, losses, gradients, ``fake``.

    ``real_logits`` and ``fake_logits`` come from D before its update, ``fake_logits_g`` after it.
    """
    fake = generator(source, dropout_masks, dropout_layout)

    def judge(fake):
        real, generated = (discriminator(source, image)[-1] for image in (mask, fake))
        loss = _cross_entropy(real, 1.0) + _cross_entropy(generated, 0.0)  # a sum, not the mean
        return {"real_logits": real, "fake_logits": generated, "loss_d": loss}

    def create(fake):
        logits = unmoved(discriminator, source, fake)[-1]
        adversarial, l1 = _cross_entropy(logits, 1.0), F.l1_loss(fake, mask)
        loss = adversarial + l1_weight * l1
        return {"fake_logits_g": logits, "adversarial": adversarial, "l1": l1, "loss_g": loss}

    return two_updates(generator, discriminator, fake, judge, create, **options)
