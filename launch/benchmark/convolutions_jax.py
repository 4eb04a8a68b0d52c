"""JAX's side of ``launch.benchmark.convolutions``: layers, forms and the library's choice.

As a process it measures the step of ``volume.py``.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.errors import BenchmarkError
from jax_pix2pix.models import convolution_maps as maps
from jax_pix2pix.models.activation import leaky_relu
from jax_pix2pix.models.conv import Conv, ConvTranspose
from jax_pix2pix.runs import workdir
from launch.benchmark import volume
from launch.benchmark.processes import serve, timed

OPERANDS = {
    "convolve": ("large", "w"),
    "scatter": ("small", "w"),
    "correlate": ("small", "large"),
}
TOLERANCE = 0.02  # of the largest value: far above rounding, TF32's and bfloat16's included


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution. name: names of all layers that have its geometry and channels."""

    name: str
    g: maps.Geometry
    small_channels: int
    large_channels: int

    def operands(self, batch_size):
        """-> {"large", "small", "w"}, float32."""
        g, small, large = self.g, self.small_channels, self.large_channels
        channels = (small, large) if g.transposed else (large, small)
        shapes = {
            "large": (batch_size, *g.size, large),
            "small": (batch_size, *g.small_size, small),
            "w": ((g.kernel,) * g.ndim + channels),
        }
        rng = np.random.default_rng(0)
        return {name: rng.random(shape, np.float32) - 0.5 for name, shape in shapes.items()}


def layers(config):
    """All different convolution layers of a system's networks, in the order of their calls."""
    names = {}

    def note(call, args, kwargs, context):
        y = call(*args, **kwargs)
        layer = context.module
        if isinstance(layer, Conv | ConvTranspose):
            transposed = isinstance(layer, ConvTranspose)
            small, large = (args[0], y) if transposed else (y, args[0])
            size = large.shape[1:-1]
            g = maps.Geometry(layer.kernel, layer.stride, layer.padding, size, transposed)
            names.setdefault((g, small.shape[-1], large.shape[-1]), []).append(layer.name)
        return y

    with nn.intercept_methods(note):
        workdir.abstract_state(workdir.build_system(config), config)
    return [Layer(", ".join(found), *numbers) for numbers, found in names.items()]


def forms(operation, g, platform):
    """{name: function} of the forms of a map that this platform may use, the native one first."""
    prefix = f"_{operation}_"
    names = [name.removeprefix(prefix) for name in vars(maps) if name.startswith(prefix)]
    if platform != "cpu":
        names = ["native"]
    return {name: functools.partial(getattr(maps, prefix + name), g=g) for name in names}


def applicable(operation, g, platform, operands):
    """-> ({name: compiled form that gives the native form's result}, the library's choice, result).

    operands: arrays as in OPERANDS.

    Raises:
        BenchmarkError: the choice is none of these forms, or has another result.
    """
    found = forms(operation, g, platform)
    programs = {name: _program(form, operands) for name, form in found.items()}
    chosen = programs.pop("cpu") if platform == "cpu" else programs["native"]
    names = {}  # of two forms with the same program, only the first counts
    for name, program in programs.items():
        if program:
            names.setdefault(program, name)
    expected = np.asarray(jax.jit(found["native"])(*operands), np.float32)
    compiled = {}
    for name in names.values():
        call = jax.jit(found[name]).lower(*operands).compile()
        if agrees(call(*operands), expected):
            compiled[name] = call
    if names.get(chosen) not in compiled:
        raise BenchmarkError(f"{g}: the library's {operation} is not the native form's")
    return compiled, names[chosen], expected


def _program(form, operands):
    """The form's program as text; None if it is made for another kernel, stride or dimension."""
    try:
        return str(jax.make_jaxpr(form)(*operands))
    except (TypeError, ValueError):
        return None


def agrees(result, expected):
    """Whether the result of another framework or form is the same array within TOLERANCE."""
    result = np.asarray(result, np.float32)
    if result.shape != expected.shape:
        return False
    return bool(np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max())


class Generator(nn.Module):
    """The generator of volume.py: [1, *size, 1] -> the same shape, in (-1, 1)."""

    @nn.compact
    def __call__(self, x):
        *hidden, out = volume.CHANNELS[1:]
        for level, features in enumerate(hidden):
            x = leaky_relu(Conv(features, 3, 1, 1, name=f"level_{level}")(x))
        return jnp.tanh(Conv(out, 3, 1, 1, name=f"level_{len(hidden)}")(x))


class VolumeStep:
    """Each method is a request."""

    def build(self, size):
        """Compiles and warms up. -> {"digest", "trial_step_seconds"}."""
        image, target, kernels, biases = volume.arrays(size)
        params = {
            f"level_{level}": {"kernel": kernel, "bias": bias}
            for level, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
        }

        def loss(params, image, target):
            return jnp.abs(Generator().apply({"params": params}, image) - target).mean()

        self.arguments = jax.device_put((params, image, target))
        self.step = jax.jit(jax.value_and_grad(loss)).lower(*self.arguments).compile()
        value, gradients = self.step(*self.arguments)
        levels = [gradients[name] for name in params]
        flat = [level["kernel"] for level in levels] + [level["bias"] for level in levels]
        return {
            "digest": volume.digest(value, flat),
            "trial_step_seconds": self.steps(3)["seconds"][-1],
        }

    def steps(self, count):
        return timed(lambda: jax.block_until_ready(self.step(*self.arguments)), count)


if __name__ == "__main__":
    measurements = VolumeStep()
    serve({"build": measurements.build, "steps": measurements.steps})
