"""Independent PyTorch pix2pix (LIDC mask -> CT): the tests' oracle and a benchmark peer.

Written from the specification alone. Images: NCHW, one channel, in [-1, 1], any float dtype.
InstanceNorm: F.instance_norm's defaults (eps 1e-5, no parameters). As a script: self-check.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

DM_PIX_EPSILON = float(np.finfo(np.float32).eps) ** 2


def init_weights(module):
    """Draw convolution weights from N(0, 0.02) and zero their biases (for ``Module.apply``)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """U-Net: ``depth`` strided convolutions down, as many transposed ones up, then tanh."""

    def __init__(self, width=64, depth=6, norm="instance", dropout=0.5):
        super().__init__()
        assert norm in ("instance", "none"), norm
        self.norm, self.dropout = norm, dropout
        chans = [width * min(2**i, 8) for i in range(depth)]
        ups = chans[-2::-1]  # outputs of all but the last transposed convolution
        down_io = zip([1, *chans[:-1]], chans, strict=True)
        up_io = zip([chans[-1], *(2 * c for c in ups)], [*ups, 1], strict=True)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1) for i, o in down_io)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in up_io)
        self.apply(init_weights)

    def forward(self, x, dropout_masks=None, dropout_layout="NCHW"):
        """Image for mask ``x``; given 0/1 keep masks replace random dropout, in any mode."""
        norm, skips = F.instance_norm if self.norm == "instance" else nn.Identity(), []
        for i, conv in enumerate(self.down):
            x = conv(x)
            x = F.leaky_relu(norm(x) if i else x, 0.2, inplace=True)
            skips.append(x)
        skips.pop()
        for i, conv in enumerate(self.up[:-1]):
            x = F.relu(norm(conv(x)), inplace=True)
            if i < 3 and dropout_masks is None:
                x = F.dropout(x, self.dropout, self.training)
            elif i < 3:
                keep = torch.as_tensor(dropout_masks[i]).to(x)
                keep = keep.permute(0, 3, 1, 2) if dropout_layout == "NHWC" else keep
                assert keep.shape == x.shape, (keep.shape, x.shape)
                x = x * (keep / (1 - self.dropout))
            x = torch.cat([x, skips.pop()], dim=1)
        return torch.tanh(self.up[-1](x))


class Discriminator(nn.Module):
    """PatchGAN on concat(mask, image): 128x128 inputs give 14x14 logits."""

    def __init__(self, width=64):
        super().__init__()
        chans = [2, width, 2 * width, 4 * width, 8 * width, 1]
        sizes = zip(chans[:-1], chans[1:], (2, 2, 2, 1, 1), strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 4, s, 1) for i, o, s in sizes)
        self.apply(init_weights)

    def forward(self, mask, image):
        """List of the feature maps after each layer's activation; the last is the logits."""
        features = [torch.cat([mask, image], dim=1)]
        for i, conv in enumerate(self.layers[:-1]):
            x = conv(features[-1])
            features.append(F.leaky_relu(F.instance_norm(x) if i else x, 0.2, inplace=True))
        return [*features[1:], self.layers[-1](features[-1])]


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
    """Mean BCE ('bce') or squared error ('lsgan') of logits against one target."""
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


def losses(real_logits, fake_logits, fake, ct, adversarial="bce", **weights):
    """Both losses from one discriminator's logits: ``loss_d`` and generator_loss's entries."""
    parts = generator_loss(fake_logits, fake, ct, adversarial, **weights)
    return {"loss_d": discriminator_loss(real_logits, fake_logits, adversarial), **parts}


def adam(module, learning_rate=2e-4, **options):
    """The optimizer of either network."""
    return torch.optim.Adam(module.parameters(), learning_rate, (0.5, 0.999), 1e-8, **options)


def step(
    generator, discriminator, mask, ct, dropout_masks=None, *, dropout_layout="NCHW",
    optimizer_g=None, optimizer_d=None, learning_rate=2e-4, adversarial="bce",
    l1_weight=100.0, ssim_weight=5.0, clip=False, collect=True,
):  # fmt: skip
    """One training step, in place: D on the detached fake, then G through the updated D.

    Missing optimizers are made afresh (zero moments) with ``learning_rate``. Returns ``fake``,
    ``real_logits``, ``fake_logits`` (D before its update), ``fake_logits_g`` (D after it),
    ``loss_d`` and generator_loss's entries, as numpy, and ``grads_d``, ``grads_g``
    (name -> numpy). ``collect=False`` (for timing) returns detached tensors, no gradients.
    """
    optimizer_g = optimizer_g or adam(generator, learning_rate)
    optimizer_d = optimizer_d or adam(discriminator, learning_rate)
    fake = generator(mask, dropout_masks, dropout_layout)

    optimizer_d.zero_grad(set_to_none=True)
    real_logits = discriminator(mask, ct)[-1]
    fake_logits = discriminator(mask, fake.detach())[-1]
    loss_d = discriminator_loss(real_logits, fake_logits, adversarial)
    loss_d.backward()
    optimizer_d.step()

    optimizer_g.zero_grad(set_to_none=True)
    discriminator.requires_grad_(False)  # no weight gradients of D in G's backward pass
    fake_logits_g = discriminator(mask, fake)[-1]
    parts = generator_loss(fake_logits_g, fake, ct, adversarial, l1_weight, ssim_weight, clip)
    parts["loss_g"].backward()
    discriminator.requires_grad_(True)
    optimizer_g.step()

    out = {"fake": fake, "real_logits": real_logits, "fake_logits": fake_logits,
           "fake_logits_g": fake_logits_g, "loss_d": loss_d, **parts}  # fmt: skip
    out = {k: v.detach() for k, v in out.items()}
    if not collect:
        return out
    out = {k: v.cpu().numpy() for k, v in out.items()}
    for key, module in ("grads_d", discriminator), ("grads_g", generator):
        out[key] = {k: p.grad.cpu().numpy().copy() for k, p in module.named_parameters()}
    return out


def conv_kernel(w):
    """Conv2d weight or gradient [out, in, kh, kw] -> [kh, kw, in, out]."""
    return w.transpose(2, 3, 1, 0)


def conv_weight(k):
    """Inverse of ``conv_kernel``."""
    return k.transpose(3, 2, 0, 1)


def conv_transpose_kernel(w):
    """ConvTranspose2d weight or gradient [in, out, kh, kw] -> [kh, kw, in, out], NOT flipped.

    Output pixel 2y + i - 1 receives input y times tap i: the adjoint of Conv2d with the same
    array read as [out, in, kh, kw]. Correlating the dilated input needs kh and kw flipped.
    """
    return w.transpose(2, 3, 0, 1)


conv_transpose_weight = conv_transpose_kernel  # this transposition is its own inverse


if __name__ == "__main__":
    from skimage.metrics import structural_similarity

    torch.manual_seed(0)
    g, d, x = Generator(), Discriminator(), torch.rand(1, 1, 128, 128) * 2 - 1
    sizes = [sum(p.numel() for p in m.parameters()) for m in (g, d)]
    assert sizes == [29_235_585, 2_763_713], sizes
    with torch.no_grad():
        assert g(x).shape == x.shape
        shapes = [tuple(f.shape[1:]) for f in d(x, x)]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 15, 15), (1, 14, 14)]
    a = torch.rand(2, 1, 40, 48, dtype=torch.float64) * 2 - 1
    b = (a + 0.3 * torch.randn_like(a)).clamp(-1, 1)
    options = {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "data_range": 2}
    options["use_sample_covariance"] = False
    for u, v, mine in zip(a, b, ssim(a, b), strict=True):
        full = structural_similarity(u[0].numpy(), v[0].numpy(), full=True, **options)[1]
        assert abs(full[5:-5, 5:-5].mean() - mine.item()) < 1e-10
    assert torch.allclose(ssim(a, b), ssim(a, b, clip=True), rtol=0, atol=1e-10)
    g, d = Generator(4, 3).double(), Discriminator(4).double()
    out = step(g, d, b[..., :32, :32], a[..., :32, :32])
    assert out["grads_g"].keys() == g.state_dict().keys() and np.isfinite(out["loss_g"])
    print("ok")
