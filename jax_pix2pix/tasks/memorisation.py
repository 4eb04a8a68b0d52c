"""The task of pyramids, which have no right answer: how well they keep the training volumes."""

import jax.numpy as jnp
import numpy as np

from jax_pix2pix.tasks.task import Task


def memorisation(volume):
    """The Task of a scale: how well it reconstructs its training volumes from their fixed noise.

    volume: images as the networks see them, [n, *size, c] -> [n, d, h, w, 1].
    """

    def metrics(reconstruction, target):
        # [-1, 1] to [0, 1] halves a difference.
        squares = jnp.square((reconstruction - target) / 2)
        mse = squares.mean(tuple(range(1, squares.ndim)))
        return {"mse": mse, "psnr": -10 * jnp.log10(mse)}

    def row(z_rec, reconstruction, target):
        del z_rec
        images = [np.asarray(volume(x[None]))[0, ..., 0] for x in (reconstruction, target)]
        fake, real = (image[len(image) // 2] for image in images)
        return [fake, real, np.minimum(4 * np.abs(fake - real) - 1, 1)]

    return Task(
        metrics=metrics,
        summarise=lambda scores, groups: {
            name: float(np.mean(values)) for name, values in scores.items()
        },
        protocols={
            "mse": "of [0, 1], mean over the training volumes, each made of its fixed noise",
            "psnr": "10 log10(1 / mse) of each, mean over the same: a measure of memorisation",
        },
        best_metric="psnr",
        row=row,
        columns=("reconstruction", "real", "error, white from 0.5"),
        side=160,
        whole=True,
    )
