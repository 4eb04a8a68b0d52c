"""Convolutions for 2D and 3D images, channels last, as layers.

Kernels are ``[k, ..., in, out]``; `convolution_maps.py` has the conventions and the mathematics.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_pix2pix.models.convolution_maps import Geometry, convolve, scatter

KERNEL_INIT = nn.initializers.normal(0.02)  # DCGAN: Radford et al., ICLR 2016


class Conv(nn.Module):
    """Convolution of [n, ..., in] in as many dimensions as the input has, zero-padded.

    ``dtype`` is the type of the computation; parameters keep their own type. With ``idle_bias``
    there is a bias, as published, that is not added: the instance norm that follows would remove
    it, as it removes every constant of an image. Its gradient is 0.
    """

    features: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    idle_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x, w = _operands(self, x)
        g = Geometry(self.kernel, self.stride, self.padding, x.shape[1:-1], transposed=False)
        return _add_bias(self, convolve(x, w, g))


class ConvTranspose(Conv):
    """Transposed convolution of [n, ..., in], the adjoint of Conv with the same numbers."""

    @nn.compact
    def __call__(self, x):
        x, w = _operands(self, x)
        size = tuple((m - 1) * self.stride + self.kernel - 2 * self.padding for m in x.shape[1:-1])
        g = Geometry(self.kernel, self.stride, self.padding, size, transposed=True)
        return _add_bias(self, scatter(x, w, g))


def _operands(module, x):
    shape = (module.kernel,) * (x.ndim - 2) + (x.shape[-1], module.features)
    w = module.param("kernel", KERNEL_INIT, shape)
    return x.astype(module.dtype), w.astype(module.dtype)


def _add_bias(module, y):
    if not module.use_bias:
        return y
    bias = module.param("bias", nn.initializers.zeros, (module.features,))
    return y if module.idle_bias else y + bias.astype(y.dtype)
