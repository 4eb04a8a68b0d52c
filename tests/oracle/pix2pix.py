"""pix2pix's two networks in PyTorch, with arguments for the differences between systems.

Images: NCHW in [-1, 1], any float dtype. Norms have PyTorch's defaults: eps 1e-5, instance norm
without parameters, batch norm with them and momentum 0.1.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracle.training import init_weights

NORMS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": nn.Identity}


class UNet(nn.Module):
    """``depth`` strided convolutions down, as many transposed ones up, then tanh.

    ``bias``: for every convolution except the last, which always has one. ``norm_bottleneck``: must
    be false where the smallest map is 1 x 1. Without ``skips`` the decoder sees its own maps alone.
    ``dropout_levels``: number of the decoder's first levels that have dropout.
    """

    def __init__(
        self, width, depth, norm, dropout, source_channels=1, bias=True, norm_bottleneck=True,
        skips=True, dropout_levels=3,
    ):  # fmt: skip
        super().__init__()
        self.dropout, self.dropout_levels, self.skips = dropout, dropout_levels, skips
        doubled = 2 if skips else 1
        chans = [width * min(2**i, 8) for i in range(depth)]
        ups = chans[-2::-1]  # outputs of all but the last transposed convolution
        down_io = zip([source_channels, *chans[:-1]], chans, strict=True)
        up_io = zip([chans[-1], *(doubled * c for c in ups[:-1])], ups, strict=True)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1, bias=bias) for i, o in down_io)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=bias) for i, o in up_io)
        self.up.append(nn.ConvTranspose2d(doubled * ups[-1], 1, 4, 2, 1))
        self.down_norms = nn.ModuleList(NORMS[norm](c) for c in chans)
        self.down_norms[0] = nn.Identity()
        if not norm_bottleneck:
            self.down_norms[-1] = nn.Identity()
        self.up_norms = nn.ModuleList(NORMS[norm](c) for c in ups)
        self.apply(init_weights)

    def forward(self, x, dropout_masks=None, dropout_layout="NCHW"):
        """The image for source ``x``. Given 0/1 keep masks replace random dropout in any mode."""
        skips = []
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2, inplace=True)
            skips.append(x)
        skips.pop()
        for i, (conv, norm) in enumerate(zip(self.up[:-1], self.up_norms, strict=True)):
            x = F.relu(norm(conv(x)), inplace=True)
            if i < self.dropout_levels and dropout_masks is None:
                x = F.dropout(x, self.dropout, self.training)
            elif i < self.dropout_levels:
                keep = torch.as_tensor(dropout_masks[i]).to(x)
                keep = keep.permute(0, 3, 1, 2) if dropout_layout == "NHWC" else keep
                assert keep.shape == x.shape, (keep.shape, x.shape)
                x = x * (keep / (1 - self.dropout))
            x = torch.cat([x, skips.pop()], dim=1) if self.skips else x
        return torch.tanh(self.up[-1](x))


class PatchGAN(nn.Module):
    """Logits of overlapping patches of concat(source, image), 70 pixels a side by default."""

    def __init__(self, width, norm, source_channels=1, strides=(2, 2, 2, 1)):
        super().__init__()
        chans = [source_channels + 1, width, 2 * width, 4 * width, 8 * width, 1]
        sizes = zip(chans[:-1], chans[1:], (*strides, 1), strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 4, s, 1) for i, o, s in sizes)
        self.norms = nn.ModuleList([nn.Identity(), *(NORMS[norm](c) for c in chans[2:5])])
        self.apply(init_weights)

    def forward(self, source, image):
        """A list of the feature maps after each layer's activation; the last is the logits."""
        features = [torch.cat([source, image], dim=1)]
        for conv, norm in zip(self.layers[:-1], self.norms, strict=True):
            features.append(F.leaky_relu(norm(conv(features[-1])), 0.2, inplace=True))
        return [*features[1:], self.layers[-1](features[-1])]
