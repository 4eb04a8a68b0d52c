"""PyTorch's side of ``launch.benchmark.convolutions``.

As a process it measures the step of ``volume.py``.
"""

import numpy as np
import torch
from torch.nn import functional

from launch.benchmark import volume
from launch.benchmark.processes import serve, timed
from launch.benchmark.torch_settings import configure

LAYOUTS = ("contiguous", "channels_last")


def _format(layout, ndim):
    last = {2: torch.channels_last, 3: torch.channels_last_3d}[ndim]
    return last if layout == "channels_last" else torch.contiguous_format


def calls(operation, g, operands, dtype, device):
    """{layout: () -> result} of a map of convolution_maps.py.

    operands: {"large", "small", "w"} as convolution_maps.py has them, float32.
    """
    return {layout: _call(operation, g, operands, dtype, device, layout) for layout in LAYOUTS}


def _call(operation, g, operands, dtype, device, layout):
    def tensor(array):
        x = torch.from_numpy(np.ascontiguousarray(array)).to(device, getattr(torch, dtype))
        return x.contiguous(memory_format=_format(layout, g.ndim))

    large, small = (tensor(np.moveaxis(operands[name], -1, 1)) for name in ("large", "small"))
    weight = tensor(np.moveaxis(operands["w"], (-2, -1), (0, 1) if g.transposed else (1, 0)))
    x, y = (small, large) if g.transposed else (large, small)
    numbers = ([g.stride] * g.ndim, [g.padding] * g.ndim, [1] * g.ndim)
    rest = (g.transposed, [0] * g.ndim, 1)  # no output padding, one group
    forward = "scatter" if g.transposed else "convolve"
    mask = [operation != "correlate", operation == "correlate", False]

    def call():
        with torch.inference_mode():
            if operation == forward:
                result = torch.ops.aten.convolution(x, weight, None, *numbers, *rest)
            else:
                gradients = torch.ops.aten.convolution_backward(
                    y, x, weight, None, *numbers, *rest, mask
                )
                result = gradients[mask.index(True)]
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return call


def as_jax(operation, g, result):
    """A result in convolution_maps.py's order of axes, float32."""
    array = result.float().cpu().numpy()
    if operation != "correlate":
        return np.moveaxis(array, 1, -1)
    return np.moveaxis(array, (0, 1) if g.transposed else (1, 0), (-2, -1))


class VolumeStep:
    """Each method is a request."""

    def build(self, size, layout, device, tf32):
        """-> {"digest", "trial_step_seconds", "threads"}."""
        threads = configure(tf32)
        self.device = device
        image, target, kernels, biases = volume.arrays(size)

        def tensor(array):
            x = torch.from_numpy(np.ascontiguousarray(array)).to(device)
            return x.contiguous(memory_format=_format(layout, 3))

        self.image, self.target = (tensor(np.moveaxis(x, -1, 1)) for x in (image, target))
        self.kernels = [tensor(w.transpose(4, 3, 0, 1, 2)).requires_grad_() for w in kernels]
        self.biases = [torch.from_numpy(b).to(device).requires_grad_() for b in biases]
        loss, gradients = self._step()
        flat = [gradient.cpu().numpy() for gradient in gradients]
        return {
            "digest": volume.digest(loss, flat),
            "trial_step_seconds": self.steps(3)["seconds"][-1],
            "threads": threads,
        }

    def _step(self):
        x = self.image
        for level, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = functional.conv3d(x, kernel, bias, padding=1)
            last = level == len(self.kernels) - 1
            x = torch.tanh(x) if last else functional.leaky_relu(x, 0.2, inplace=True)
        loss = functional.l1_loss(x, self.target)
        gradients = torch.autograd.grad(loss, [*self.kernels, *self.biases])
        if self.device == "cuda":
            torch.cuda.synchronize()
        return loss.detach(), gradients

    def steps(self, count):
        return timed(self._step, count)


if __name__ == "__main__":
    peer = VolumeStep()
    serve({"build": peer.build, "steps": peer.steps})
