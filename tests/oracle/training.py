"""Code that the oracles of all systems share: initial weights, Adam, the two updates of a step.

It needs PyTorch alone. Kernel layouts at the end are those of JAX, [*spatial, in, out].
"""

import torch
from torch import nn
from torch.func import functional_call

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def init_weights(module):
    """Sets DCGAN's weights: N(0, 0.02), norms' scales N(1, 0.02), else 0. For ``Module.apply``."""
    if isinstance(module, CONVOLUTIONS + BATCH_NORMS):
        nn.init.normal_(module.weight, float(isinstance(module, BATCH_NORMS)), 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adam(module, learning_rate=2e-4, **options):
    """The optimizer of either network."""
    return torch.optim.Adam(module.parameters(), learning_rate, (0.5, 0.999), 1e-8, **options)


def two_updates(
    generator, discriminator, fake, judge, create, *, optimizer_g=None, optimizer_d=None,
    learning_rate=2e-4, constrain=None, collect=True,
):  # fmt: skip
    """One training step, in place: D on the detached fake, then G through the updated D.

    ``judge(detached fake)`` and ``create(fake)`` return dicts of tensors with ``loss_d`` and
    ``loss_g``. Missing optimizers are made afresh (zero moments); ``constrain()`` follows D's
    update. Returns ``fake`` and both dicts' entries as numpy, ``grads_d`` and ``grads_g`` (name
    -> numpy). ``collect=False`` (for timing) returns detached tensors, no gradients.
    """
    optimizer_g = optimizer_g or adam(generator, learning_rate)
    optimizer_d = optimizer_d or adam(discriminator, learning_rate)

    optimizer_d.zero_grad(set_to_none=True)
    judged = judge(fake.detach())
    judged["loss_d"].backward()
    optimizer_d.step()
    if constrain:
        constrain()

    optimizer_g.zero_grad(set_to_none=True)
    discriminator.requires_grad_(False)  # no weight gradients of D in G's backward pass
    created = create(fake)
    created["loss_g"].backward()
    discriminator.requires_grad_(True)
    optimizer_g.step()

    out = {k: v.detach() for k, v in {"fake": fake, **judged, **created}.items()}
    if not collect:
        return out
    out = {k: v.cpu().numpy() for k, v in out.items()}
    for key, module in ("grads_d", discriminator), ("grads_g", generator):
        out[key] = {k: p.grad.cpu().numpy().copy() for k, p in module.named_parameters()}
    return out


def unmoved(network, *inputs):
    """A network's output, with its running statistics and spectral vectors left unchanged.

    It is for D in G's update, as in JAX that update returns no statistics of D.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    return functional_call(network, buffers, inputs)


def conv_kernel(w):
    """A convolution's weight or gradient [out, in, *spatial] -> [*spatial, in, out]."""
    return w.transpose(*range(2, w.ndim), 1, 0)


def conv_transpose_kernel(w):
    """A ConvTranspose2d weight or gradient [in, out, kh, kw] -> [kh, kw, in, out], NOT flipped.

    Output pixel 2y + i - 1 receives input y times tap i: the adjoint of Conv2d with the same
    array read as [out, in, kh, kw]. Correlating the dilated input needs kh and kw flipped.
    """
    return w.transpose(2, 3, 0, 1)
