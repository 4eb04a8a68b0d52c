"""Attention for convolutional networks, in 2D and 3D."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.models.conv import Conv
from jax_pix2pix.models.norm import Norm

MOST_PIXELS = 2**14  # limit of self-attention: its weights are then 1 GiB of float32 an image


class AttentionGate(nn.Module):
    """Weighs the pixels of a skip by a gating signal (Attention U-Net, Oktay et al., MIDL 2018).

    alpha = sigmoid(psi(relu(theta(skip) + phi(gate)))), with 1 x 1 convolutions, half of the
    skip's channels between them, and a norm after the first two; the result is alpha * skip. Here
    the gate already has the resolution of the skip, so nothing is resampled.

    Args of the call:
        skip: [n, *spatial, c].
        gate: [n, *spatial, g], from the decoder.

    Returns:
        [n, *spatial, c].
    """

    norm: str = "instance"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, skip, gate, *, train):
        def dense(features, name, x):
            return Conv(features, 1, stride=1, padding=0, dtype=self.dtype, name=name)(x)

        between = max(skip.shape[-1] // 2, 1)
        norms = [Norm(self.norm, self.dtype, name=f"norm_{of}") for of in ("theta", "phi")]
        theta = norms[0](dense(between, "theta", skip), train=train)
        phi = norms[1](dense(between, "phi", gate), train=train)
        return skip * nn.sigmoid(dense(1, "psi", nn.relu(theta + phi)))


class SelfAttention(nn.Module):
    """Every pixel looks at every other one (SAGAN, Zhang et al., ICML 2019).

    y = x + gamma * W_v(softmax(f(x) g(x)^T) h(x)), with 1 x 1 convolutions f and g to c / 8
    channels and h to c / 2. gamma is learnt and begins at 0, so attention has no effect at first.
    Memory grows with the square of the number of pixels, which is therefore limited.

    Args of the call:
        x: [n, *spatial, c].

    Returns:
        The same shape.

    Raises:
        ConfigError: there are more pixels than MOST_PIXELS.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        pixels = math.prod(x.shape[1:-1])
        if pixels > MOST_PIXELS:
            raise ConfigError(
                f"config.generator.self_attention would weigh {pixels} pixels against each other, "
                f"in {pixels**2 * 4 / 2**30:.0f} GiB an image: use a deeper level, of at most "
                f"{MOST_PIXELS} pixels"
            )

        def dense(features, name, x) -> jax.Array:
            return Conv(features, 1, stride=1, padding=0, dtype=self.dtype, name=name)(x)

        def flat(x):
            return x.reshape(x.shape[0], -1, x.shape[-1])

        query = flat(dense(max(channels // 8, 1), "query", x))
        key = flat(dense(max(channels // 8, 1), "key", x))
        value = flat(dense(max(channels // 2, 1), "value", x))
        # Softmax in float32 at least: with bfloat16, weights of many pixels would not add up to 1.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scores = jnp.einsum("nqc,nkc->nqk", query, key, preferred_element_type=wide)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        attended = jnp.einsum("nqk,nkc->nqc", weights, value)
        attended = dense(channels, "output", attended.reshape(*x.shape[:-1], -1))
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * attended
