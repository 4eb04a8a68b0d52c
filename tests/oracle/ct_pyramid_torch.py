"""Independent PyTorch oracle of one scale of CT-GAN's pyramid, on volumes and on slabs.

Written from the specification alone. Volumes: [n, 1, d, h, w] in [-1, 1]. Slabs: [n, d, h, w], the
slices as channels. Any float dtype. Norms have PyTorch's defaults: eps 1e-5, instance norm without
parameters, batch norm with them and momentum 0.1. Convolutions k3 before a norm have no bias, the
others have one.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.training import adam, init_weights, unmoved

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {
    2: {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity},
    3: {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d, "none": nn.Identity},
}
LINEAR = {2: "bilinear", 3: "trilinear"}
REAL, FAKE, G_TARGET = 1.0, 0.0, 0.9


def resize(x, size):
    """[n, c, *spatial] -> [n, c, *size], linear, with corner pixels aligned."""
    return F.interpolate(x, size=tuple(size), mode=LINEAR[x.ndim - 2], align_corners=True)


class _Generator(nn.Module):
    """The common part: adds noise to the padded image, and the coarser image at the end."""

    def noise_size(self, size):
        return tuple(m + sum(self.margins(m)) for m in size)

    def forward(self, image, noise, residual=True):
        """image: the coarser scale's image at this scale's size; at scale 0 zeros and no residual.

        noise: [n, c, *noise_size], already times its amplitude.
        """
        size = image.shape[2:]
        margins = [m for side in reversed(size) for m in self.margins(side)]
        fake = torch.tanh(self.body(F.pad(image, margins) + noise))
        if fake.shape != image.shape:
            for axis, side in enumerate(size, 2):
                fake = fake.narrow(axis, self.margins(side)[0], side)
        return fake + image if residual else fake


class VolumeGenerator(_Generator):
    """Convolutions k3 without padding: each takes a voxel from every side of the padded volume."""

    def __init__(self, width=32, layers=4, norm="batch"):
        super().__init__()
        chans = [1, *[width] * layers, 1]
        self.layers = nn.ModuleList(
            nn.Conv3d(i, o, 3, bias=norm == "none" or number == layers)
            for number, (i, o) in enumerate(pairwise(chans))
        )
        self.norms = nn.ModuleList(NORMS[3][norm](width) for _ in range(layers))
        self.apply(init_weights)

    def margins(self, side):
        del side
        return len(self.layers), len(self.layers)

    def body(self, x):
        for conv, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return self.layers[-1](x)


class SlabGenerator(_Generator):
    """Three poolings and three transposed convolutions, with two convolutions between each."""

    def __init__(self, slices, width=256, levels=3, norm="batch"):
        super().__init__()
        make, bias = NORMS[2][norm], norm == "none"
        self.levels = levels
        self.first = nn.Conv2d(slices, width, 3, 1, 1)
        self.down = nn.ModuleList(
            nn.Conv2d(width, width, 3, 1, 1, bias=bias) for _ in range(2 * levels)
        )
        self.down_norms = nn.ModuleList(make(width) for _ in range(2 * levels))
        self.transposed = nn.ModuleList(
            nn.ConvTranspose2d(width, width, 4, 2, 1) for _ in range(levels)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(width, width, 3, 1, 1, bias=bias) for _ in range(2 * levels)
        )
        self.up_norms = nn.ModuleList(make(width) for _ in range(2 * levels))
        self.last = nn.Conv2d(width, slices, 3, 1, 1)
        self.apply(init_weights)

    def margins(self, side):
        padded = side + 10
        while padded % 2**self.levels:
            padded += 1
        return (padded - side) // 2, padded - side - (padded - side) // 2

    def body(self, x):
        x = self.first(x)
        for level in range(self.levels):
            for i in (2 * level, 2 * level + 1):
                x = F.relu(self.down_norms[i](self.down[i](x)))
            x = F.max_pool2d(x, 2)
        for level in range(self.levels):
            x = self.transposed[level](x)
            for i in (2 * level, 2 * level + 1):
                x = F.relu(self.up_norms[i](self.up[i](x)))
        return self.last(x)


class Discriminator(nn.Module):
    """Logits at every pixel. ``channels``: a slab's number of slices, or 1 for a volume."""

    def __init__(self, width=16, layers=4, norm="batch", ndim=3, channels=1):
        super().__init__()
        chans = [channels, *[width] * layers, 1]
        self.layers = nn.ModuleList(
            CONVOLUTION[ndim](i, o, 3, 1, 1, bias=norm == "none" or number == layers)
            for number, (i, o) in enumerate(pairwise(chans))
        )
        self.norms = nn.ModuleList(NORMS[ndim][norm](width) for _ in range(layers))
        self.apply(init_weights)

    def forward(self, x):
        """A list of the feature maps after each layer's activation; the last is the logits."""
        features = [x]
        for conv, norm in zip(self.layers[:-1], self.norms, strict=True):
            features.append(F.leaky_relu(norm(conv(features[-1])), 0.2))
        return [*features[1:], self.layers[-1](features[-1])]


def as_volumes(image):
    """Either form -> [n, d, h, w]."""
    return image[:, 0] if image.ndim == 5 else image


def intensity_projections(fake, real):
    """The mean of six MSEs, of mean- and maximum-intensity projections along the three axes."""
    fake, real = as_volumes(fake), as_volumes(real)
    terms = []
    for axis in (1, 2, 3):
        terms.append(F.mse_loss(fake.mean(axis), real.mean(axis)))
        terms.append(F.mse_loss(fake.amax(axis), real.amax(axis)))
    return sum(terms) / 6


def boundary_slices(fake, real):
    """The published form: the mean MSE of the first slices along the three axes."""
    fake, real = as_volumes(fake), as_volumes(real)
    first = [F.mse_loss(fake.select(axis, 0), real.select(axis, 0)) for axis in (1, 2, 3)]
    return sum(first) / 3


PROJECTIONS = {"intensity": intensity_projections, "boundary_slices": boundary_slices}


def gradient_penalty(discriminate, real, fake, epsilon):
    """Gulrajani et al. 2017: (|gradient| - 1)**2 between real and fake, averaged over images.

    epsilon: the share of the real image, [n, 1, ...]. The gradient is that of the logits' mean.
    """
    between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    logits = discriminate(between)[-1]
    score = logits.flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(score, between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def discriminator_loss(
    discriminate, real, fake, *, adversarial="lsgan", penalty_weight=0.1, epsilon=None, aside=None
):
    """-> {"loss_d", "real", "fake"}, and "penalty" for "wgan".

    aside: the function to use for the penalty instead of ``discriminate``.
    """
    real_logits, fake_logits = discriminate(real)[-1], discriminate(fake)[-1]
    if adversarial == "lsgan":
        terms = {
            "real": (real_logits - REAL).square().mean(),
            "fake": (fake_logits - FAKE).square().mean(),
        }
        return terms | {"loss_d": terms["real"] + terms["fake"]}
    terms = {"real": -real_logits.mean(), "fake": fake_logits.mean()}
    terms["penalty"] = gradient_penalty(aside or discriminate, real, fake, epsilon)
    return terms | {"loss_d": terms["real"] + terms["fake"] + penalty_weight * terms["penalty"]}


def generator_loss(
    discriminate, sample, reconstruction, real, *, adversarial="lsgan", weights=(1, 100, 100, 10),
    projection="intensity", segmenter=None, segmentation_gradient=True,
):  # fmt: skip
    """-> {"loss_g", "adversarial", "reconstruction", "projection", "segmentation"}.

    weights: those of the four terms. segmenter: image -> probabilities, or None for no such term.
    """
    logits = discriminate(sample)[-1]
    lsgan = adversarial == "lsgan"
    terms = {
        "adversarial": (logits - G_TARGET).square().mean() if lsgan else -logits.mean(),
        "reconstruction": F.mse_loss(reconstruction, real),
        "projection": PROJECTIONS[projection](reconstruction, real),
    }
    if segmenter:
        apart = F.mse_loss(segmenter(reconstruction), segmenter(real))
        terms["segmentation"] = apart if segmentation_gradient else apart.detach()
    total = sum(weight * term for weight, term in zip(weights, terms.values(), strict=False))
    return terms | {"loss_g": total}


def step(
    generator, discriminator, real, samples, reconstruction, *, residual, learning_rate=5e-4,
    generator_updates=3, epsilons=None, adversarial="lsgan", penalty_weight=0.1, **g_options,
):  # fmt: skip
    """One iteration, in place: an update of D on each sample, then G's updates on the last one.

    samples: (image, noise) for each update of D. reconstruction: (image, noise), the image without
    random noise. G's running statistics move in its own updates, with the sample and then with the
    reconstruction. D's move in its own, the real image first, and not with the gradient penalty.
    epsilons: those of the penalty, one per update.

    Returns:
        (list for D, list for G): for each update a dict of losses and ``grads``, name -> numpy.
    """
    optimizers = [adam(module, learning_rate) for module in (generator, discriminator)]
    optimizer_g, optimizer_d = optimizers
    judged, created = [], []
    for number, (image, noise) in enumerate(samples):
        with torch.no_grad():
            fake = unmoved(generator, image, noise, residual)
        optimizer_d.zero_grad(set_to_none=True)
        losses = discriminator_loss(
            discriminator, real, fake, adversarial=adversarial, penalty_weight=penalty_weight,
            epsilon=epsilons and epsilons[number], aside=lambda x: unmoved(discriminator, x),
        )  # fmt: skip
        losses["loss_d"].backward()
        judged.append(_numpy(losses, discriminator))
        optimizer_d.step()
    for _ in range(generator_updates):
        optimizer_g.zero_grad(set_to_none=True)
        losses = generator_loss(
            lambda x: unmoved(discriminator, x),
            generator(*samples[-1], residual), generator(*reconstruction, residual), real,
            adversarial=adversarial, **g_options,
        )  # fmt: skip
        losses["loss_g"].backward()
        created.append(_numpy(losses, generator))
        optimizer_g.step()
    return judged, created


def _numpy(losses, module):
    grads = {k: p.grad.numpy().copy() for k, p in module.named_parameters()}
    return {k: v.detach().numpy() for k, v in losses.items()} | {"grads": grads}
