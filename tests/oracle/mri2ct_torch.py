"""Independent PyTorch oracle of MRI -> synthetic CT.

Written from the specification alone. Images: NCHW in [-1, 1], the CT one channel, any float dtype.
"""

import torch.nn.functional as F

from tests.oracle.pix2pix import PatchGAN, UNet
from tests.oracle.training import two_updates, unmoved


class Generator(UNet):
    """Four halvings; ``skips=False`` as published."""

    def __init__(self, width=64, source_channels=1, norm="batch", skips=True):
        super().__init__(width, 4, norm, 0.0, source_channels, skips=skips, dropout_levels=0)


class Discriminator(PatchGAN):
    """256x256 inputs give 15x15 logits."""

    def __init__(self, width=64, source_channels=1, norm="batch"):
        super().__init__(width, norm, source_channels, strides=(2, 2, 2, 2))


def _cross_entropy(logits, label):
    return F.binary_cross_entropy_with_logits(logits, logits.new_full(logits.shape, label))


def step(generator, discriminator, source, ct, *, l1_weight=100.0, **options):
    """``training.two_updates`` with these ``options``: logits, losses, gradients, ``fake``."""
    fake = generator(source)

    def judge(fake):
        real, generated = (discriminator(source, image)[-1] for image in (ct, fake))
        loss = (_cross_entropy(real, 1.0) + _cross_entropy(generated, 0.0)) / 2
        return {"real_logits": real, "fake_logits": generated, "loss_d": loss}

    def create(fake):
        logits = unmoved(discriminator, source, fake)[-1]
        adversarial, l1 = _cross_entropy(logits, 1.0), F.l1_loss(fake, ct)
        return {"adversarial": adversarial, "l1": l1, "loss_g": adversarial + l1_weight * l1}

    return two_updates(generator, discriminator, fake, judge, create, **options)
