"""A 3D generator step that both frameworks measure on equal numbers. It needs NumPy alone.

The generator has four 3x3x3 convolutions with LeakyReLU (slope 0.2) between them and tanh at the
end. The step computes, on one volume, the mean absolute error and its gradients with respect to all
kernels and biases.
"""

import itertools

import numpy as np

CHANNELS = (1, 32, 32, 32, 1)


def arrays(size):
    """-> volume and target [1, *size, 1], kernels [3, 3, 3, in, out], biases [out]."""
    rng = np.random.default_rng(0)
    volume, target = rng.uniform(-1, 1, (2, 1, *size, 1)).astype(np.float32)
    kernels = [
        rng.normal(0, (27 * i) ** -0.5, (3, 3, 3, i, o)).astype(np.float32)
        for i, o in itertools.pairwise(CHANNELS)
    ]
    biases = [rng.normal(0, 0.1, o).astype(np.float32) for o in CHANNELS[1:]]
    return volume, target, kernels, biases


def digest(loss, gradients):
    """The loss and the norm of each gradient, equal for frameworks that compute the same."""
    return [float(loss), *[float(np.linalg.norm(gradient)) for gradient in gradients]]
