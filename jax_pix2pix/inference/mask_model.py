"""A trained generator of masks, from stored images to labels on the grid of their source."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from jax_pix2pix.metrics.components import largest_components
from jax_pix2pix.evaluation.masks import probability_function
from jax_pix2pix.intensity import to_network
from jax_pix2pix.inference.mask_options import mask_options


@dataclasses.dataclass(frozen=True)
class MaskModel:
    """What a run makes of images, and how that becomes masks.

    probabilities: stored integers [n, *spatial, c] -> NumPy (mean of the passes, [n, *spatial,
        classes], see ``Segmentation.probabilities``; standard deviation of the foreground's
        probability, [n, *spatial]).
    classes: of the generator's output.
    mc_dropout: passes with dropout; 0 is one without.
    threshold: of the foreground's probability.
    components: how many of the largest ones of a mask to keep; 0 keeps all.
    """

    probabilities: Callable
    classes: int
    mc_dropout: int
    threshold: float
    components: int

    @property
    def has_deviation(self):
        """One pass deviates from nothing: its map would be 0, as if it were sure."""
        return self.mc_dropout > 1

    @property
    def highest_label(self):
        return max(self.classes - 1, 1)

    def labels(self, probabilities):
        """[..., classes] -> uint8 [...]: 0 or 1 by the threshold, or the most probable class."""
        if self.classes == 1:
            return (probabilities[..., 0] > self.threshold).astype(np.uint8)
        return probabilities.argmax(-1).astype(np.uint8)

    def cleaned(self, labels):
        """Keeps the largest components of all that is not background, of an image or a volume."""
        if not self.components:
            return labels
        return labels * largest_components(labels > 0, self.components)


def mask_model(config, system, generator, mc_dropout=None, threshold=None, components=0):
    """The MaskModel of a run.

    Args:
        mc_dropout, threshold: None is that of config.evaluation.

    Raises:
        ConfigError: names the flag of `launch.predict` that does not fit.
    """
    classes = config.generator.get("classes", 1)
    mc_dropout, threshold = mask_options(config, mc_dropout, threshold, components)
    moments = probability_function(system, mc_dropout)

    @jax.jit
    def outputs(generator, stored):
        mean, deviation = moments(generator, to_network(stored, config.data.source_range))
        # Of several classes the background, which deviates as all the others together do.
        return mean, deviation[..., 0]

    def probabilities(stored):
        return jax.device_get(outputs(generator, stored))

    return MaskModel(probabilities, classes, mc_dropout, threshold, components)
