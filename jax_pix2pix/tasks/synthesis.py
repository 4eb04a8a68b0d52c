"""The task of systems that make a CT slice: judged slice by slice, in grey levels and HU."""

import numpy as np

from jax_pix2pix.metrics.ct_slices import ct_metrics
from jax_pix2pix.tasks.task import Task


def synthesis(window_hu):
    """The Task of a system whose output in [-1, 1] spans window_hu."""
    metrics, protocols = ct_metrics(window_hu)
    return Task(
        metrics=metrics,
        summarise=_means,
        protocols=protocols,
        best_metric="ssim",
        row=_row,
        columns=("source", "fake", "real", "error, white from 0.5"),
        side=160,
    )


def _means(scores, groups):
    del groups  # every slice counts the same, whichever patient's it is
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _row(source, fake, target):
    error = np.abs(fake - target)
    middle = source.shape[-1] // 2  # the middle one of neighbouring slices
    return [source[..., middle], fake[..., 0], target[..., 0], np.minimum(4 * error[..., 0] - 1, 1)]
