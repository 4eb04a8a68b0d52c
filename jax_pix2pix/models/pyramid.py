"""The generators of all scales, stacked: from noise to an image, coarse to fine."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.models.scale_net import centred


class Pyramid(nn.Module):
    """Trains the generator of the finest of ``sizes``; the coarser ones are frozen.

    ``net`` is a generator of `scale_net`; every scale has its own parameters. The collection
    "frozen" holds those of the coarser scales, {"scales": {"scale_0": {"params", "batch_stats"},
    ...}}, and the "amplitudes" of the noise of all scales, [scales].

    With ``border_noise``, there is noise beyond the image's borders too. Otherwise there are zeros,
    which tell a network where in the image it is.

    Args of the call:
        z_rec: [n, *net.noise_size(sizes[0]), c]: fixed noise of the coarsest scale, from which the
            training images are reconstructed; the finer scales then have no noise.
        train: batch statistics of ``net`` on or off; the frozen scales use running statistics.

    Returns:
        In training (sample, reconstruction), where the sample has new noise at all scales;
        otherwise the reconstruction. [n, *sizes[-1], c] each.
    """

    net: nn.Module
    sizes: tuple
    border_noise: bool = False

    @nn.compact
    def __call__(self, z_rec, *, train):
        scales = self.variable("frozen", "scales", self._unlearnt, z_rec.shape[-1]).value
        amplitudes = self.variable("frozen", "amplitudes", jnp.ones, len(self.sizes)).value

        def image(noises):
            x = None
            for number, noise in enumerate(noises):
                noise = noise * amplitudes[number].astype(noise.dtype)
                x = _scale(self._apply(scales, number, train), x, noise, self.sizes[number], number)
            return x

        silence = [jnp.zeros(self._shape(k, z_rec), z_rec.dtype) for k in range(len(self.sizes))]
        reconstruction = [z_rec, *silence[1:]]
        if not train:
            return image(reconstruction)
        keys = jax.random.split(self.make_rng("noise"), len(self.sizes))
        noises = [
            jax.random.normal(key, zeros.shape, zeros.dtype)
            for key, zeros in zip(keys, silence, strict=True)
        ]
        if not self.border_noise:
            noises = [
                noise * inside(size, noise.shape[1:-1]).astype(noise.dtype)
                for noise, size in zip(noises, self.sizes, strict=True)
            ]
        return image(noises), image(reconstruction)

    def _shape(self, number, z_rec):
        return len(z_rec), *self.net.noise_size(self.sizes[number]), z_rec.shape[-1]

    def _apply(self, scales, number, train):
        if number == len(self.sizes) - 1:
            return lambda *inputs: self.net(*inputs, train=train)
        net = self.net.clone(parent=None)
        return lambda *inputs: net.apply(scales[f"scale_{number}"], *inputs, train=False)

    def _unlearnt(self, channels):
        """Coarser scales with random weights, which must be replaced before training."""
        net, scales = self.net.clone(parent=None), {}
        for number, size in enumerate(self.sizes[:-1]):
            image = jnp.zeros((1, *size, channels))
            noise = jnp.zeros((1, *net.noise_size(size), channels))
            variables = net.init(self.make_rng("params"), image, noise, train=False)
            scales[f"scale_{number}"] = {"batch_stats": {}, **variables}
        return scales


def inside(size, padded):
    """A mask that is 1 in a centred image of this size and 0 around it: [*padded, 1]."""
    return centred(jnp.ones((1, *size, 1)), padded)[0]


def _scale(apply, coarser, noise, size, number):
    """One scale's image [n, *size, c] from scaled noise and the coarser image, None at scale 0."""
    if number == 0:
        return apply(jnp.zeros((len(noise), *size, noise.shape[-1]), noise.dtype), noise)
    upsampled = resize_linear(coarser, size)
    return upsampled + apply(upsampled, noise)


def scale_variables(generator):
    """The variables {"params", "batch_stats"} of each scale's net, coarsest first.

    generator: the Network of a System whose generator is a Pyramid.
    """
    params = generator.params if generator.average is None else generator.average
    scales = generator.frozen["scales"]
    return [
        *(scales[f"scale_{number}"] for number in range(len(scales))),
        {"params": params["net"], "batch_stats": generator.batch_stats.get("net", {})},
    ]
