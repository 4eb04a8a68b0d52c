"""Independent PyTorch oracle of CT -> liver mask: an encoder-decoder and a multi-layer critic.

Written from the specification alone; 2D and 3D by ``ndim``. Source: [n, c, *spatial] in [-1, 1].
Masks: [n, classes, *spatial] in [0, 1], one channel of foreground or a softmax's classes with the
background first. Convolutions that a batch norm follows have no bias, the others have one.

Spectral norm (Miyato et al. 2018) is PyTorch's, with one power iteration per training forward. It
keeps the vector u of the outputs, as in the paper: v = W'u / |W'u|, u = Wv / |Wv|, then
sigma = u'Wv. PyTorch keeps v and starts with u = Wv / |Wv|, half an iteration away, so it gets the
transposed matrix here. ``Critic.vectors`` are the u [out], to be read or filled (with any length
but 0) before a step. Norms are max(|x|, 1e-12), but sqrt(|x|**2 + 1e-12) in Flax: the relative
difference is 5e-13 / |W'u|**2.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from tests.oracle.training import init_weights, two_updates, unmoved

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
CLIP = 0.05


def _double(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Generator(nn.Module):
    """Four strided convolutions down, three doublings up, and a fourth doubling in the head.

    Sigmoid for 1 class, softmax for more. ``as_published``: the head's ReLU comes before its
    doubling, so that masks are unbounded above and consist of blocks of two pixels.
    """

    def __init__(self, width=64, classes=1, ndim=2, source_channels=1, as_published=False):
        super().__init__()
        assert not as_published or classes == 1, classes
        self.as_published = as_published
        conv, norm = CONVOLUTION[ndim], BATCH_NORM[ndim]
        down = [source_channels, width, 2 * width, 4 * width, 8 * width]
        up = [8 * width, 4 * width, 2 * width, width]
        self.down = nn.ModuleList(
            conv(down[i], down[i + 1], 4, 2, 1, bias=i == 0) for i in range(4)
        )
        self.down_norms = nn.ModuleList([nn.Identity(), *(norm(c) for c in down[2:])])
        self.up = nn.ModuleList(conv(up[i], up[i + 1], 3, 1, 1, bias=False) for i in range(3))
        self.up_norms = nn.ModuleList(norm(c) for c in up[1:])
        self.head = conv(width, classes, 3, 1, 1)
        self.apply(init_weights)

    def forward(self, x):
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            x = _double(F.relu(norm(conv(x))))
        if self.as_published:
            return _double(F.relu(self.head(x)))
        x = self.head(_double(x))
        return torch.sigmoid(x) if x.shape[1] == 1 else torch.softmax(x, 1)


class _Matrix(nn.Module):
    """[out, in, *spatial] -> [in * spatial, out]."""

    def forward(self, weight):
        return weight.flatten(1).T


class _Weight(nn.Module):
    """The inverse of _Matrix."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, matrix):
        return matrix.T.reshape(self.shape)


class Critic(nn.Module):
    """Features of the part of an image that a mask shows.

    ``constraint``: "spectral", "clip" (all parameters, in ``constrain``) or "none".
    """

    def __init__(self, width=128, classes=1, ndim=2, constraint="spectral"):
        super().__init__()
        assert constraint in ("spectral", "clip", "none"), constraint
        self.constraint = constraint
        chans = [max(classes - 1, 1), width, 2 * width, 1]
        self.layers = nn.ModuleList(
            CONVOLUTION[ndim](chans[i], chans[i + 1], 3, 1, 1, bias=i == 2) for i in range(3)
        )
        self.norms = nn.ModuleList(BATCH_NORM[ndim](c) for c in chans[1:3])
        self.pool = POOL[ndim](8)
        self.apply(init_weights)
        if constraint == "spectral":
            for layer in self.layers:
                shape = layer.weight.shape
                parametrize.register_parametrization(layer, "weight", _Matrix(), unsafe=True)
                spectral_norm(layer, n_power_iterations=1)
                parametrize.register_parametrization(layer, "weight", _Weight(shape), unsafe=True)

    @property
    def vectors(self):
        """A spectral critic's u [out] of each layer, PyTorch's v of the transposed matrix."""
        spectral = self.layers if self.constraint == "spectral" else ()
        return [layer.parametrizations.weight[1]._v for layer in spectral]

    def forward(self, source, mask):
        """The maps [n, c, 8, ...] of all three layers, after their activations."""
        foreground = mask if mask.shape[1] == 1 else mask[:, 1:]
        x, maps = (source + 1) / 2 * foreground, []
        for conv, norm in zip(self.layers[:2], self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            maps.append(self.pool(x))
        return [*maps, self.pool(self.layers[2](x))]

    @torch.no_grad()
    def constrain(self):
        """Clips every parameter after an update, as SegAN does, if that is the constraint."""
        if self.constraint == "clip":
            for parameter in self.parameters():
                parameter.clamp_(-CLIP, CLIP)


def distance(critic, source, a, b):
    """The mean absolute difference of two masks' features, averaged over the layers."""
    pairs = zip(critic(source, a), critic(source, b), strict=True)
    return torch.stack([F.l1_loss(x, y) for x, y in pairs]).mean()


def step(
    generator, critic, source, mask, *, as_published=False, l1_weight=1.0, distance_weight=0.01,
    **options,
):  # fmt: skip
    """``training.two_updates`` with these ``options``: losses, gradients, ``fake``.

    The critic maximises the distance; ``as_published`` it minimises it. Its vectors u move with
    each of the two forwards of its own update, the true mask's first. Both forwards of G's update
    begin with these vectors and leave them unchanged.
    """
    sign = 1 if as_published else -1

    def judge(fake):
        apart = distance(critic, source, mask, fake)
        return {"distance": apart, "loss_d": sign * apart}

    def create(fake):
        apart, l1 = distance(partial(unmoved, critic), source, mask, fake), F.l1_loss(fake, mask)
        return {"distance_g": apart, "l1": l1, "loss_g": l1_weight * l1 + distance_weight * apart}

    fake = generator(source)
    return two_updates(
        generator, critic, fake, judge, create, constrain=critic.constrain, **options
    )
