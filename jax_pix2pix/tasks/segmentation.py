"""The task of systems that make masks: overlap with a reference, by image or by volume."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging.pictures import outlined
from jax_pix2pix.metrics.overlap import PROTOCOLS, overlap_counts, overlap_scores
from jax_pix2pix.models.critic import foreground
from jax_pix2pix.tasks.task import Task

SIDE = 320  # pixels a side of a picture, for thin outlines
PER = {"image": "mean over images", "volume": "counted over each whole volume, mean over volumes"}


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """A Task whose output is masks.

    network_target: (stored labels, integers [..., 1], dtype) -> the masks that the network should
        give: [..., 1], 1 inside the only region; or [..., classes], one-hot.
    probabilities: fake -> [..., 1], of the foreground, or [..., classes] with the background first.
    regions: {name: labels that belong to it}.
    threshold: of the foreground's probability; with several classes the most probable one is taken.
    per: "image" or "volume", over which a score is computed.
    """

    network_target: Callable
    probabilities: Callable
    regions: dict[str, tuple[int, ...]]
    threshold: float
    per: str


def segmentation(config, classes, probabilities):
    """The Segmentation that config.evaluation describes, for a network with that many classes.

    Raises:
        ConfigError: names the field that does not fit.
    """
    settings = config.evaluation
    regions = {name: tuple(labels) for name, labels in settings.regions.items()}
    if classes == 1 and len(regions) != 1:
        raise ConfigError("config.evaluation.regions: a network of one class has one region")
    for name, labels in regions.items():
        inside = range(1, classes if classes > 1 else 256)
        if not labels or not all(isinstance(x, int) and x in inside for x in labels):
            raise ConfigError(
                f"config.evaluation.regions.{name} is {labels}: use labels from 1 to {inside[-1]}"
            )
    if settings.per not in PER:
        raise ConfigError(f'config.evaluation.per is "{settings.per}": use {" or ".join(PER)}')
    if not 0 < settings.threshold < 1:
        raise ConfigError(
            f"config.evaluation.threshold={settings.threshold}: use 0 to 1, exclusive"
        )

    def network_target(labels, dtype):
        if classes > 1:
            return jax.nn.one_hot(labels[..., 0], classes, dtype=dtype)
        (members,) = regions.values()
        return jnp.isin(labels, jnp.asarray(members, labels.dtype)).astype(dtype)

    def metrics(fake, target):
        predicted = masks(probabilities(fake), regions, settings.threshold)
        reference = masks(probabilities(target), regions, 0.5)
        return {
            f"{name}/{count}": values
            for name in regions
            for count, values in overlap_counts(predicted[name], reference[name]).items()
        }

    def summarise(counts, groups):
        if settings.per == "image":
            groups = np.arange(len(groups))
        scores = {}
        for name in regions:
            region = {count: counts[f"{name}/{count}"] for count in ("tp", "fp", "fn", "tn")}
            for metric, values in grouped_scores(region, groups).items():
                scores[f"{metric}_{name}"] = defined_mean(values)
        dice = float(np.mean([scores[f"dice_{name}"] for name in regions]))
        # JSON has no NaN: undefined scores are left out.
        return {"dice": dice} | {k: v for k, v in scores.items() if v is not None}

    def row(source, fake, target):
        predicted = masks(probabilities(fake), regions, settings.threshold)
        reference = masks(probabilities(target), regions, 0.5)
        shown = np.asarray(foreground(probabilities(fake)).sum(-1))
        grey = source.mean(-1)
        outlines = outlined(grey, [*reference.values()], [*predicted.values()], SIDE)
        return [grey, 2 * shown - 1, outlines]

    protocols = {"dice": f"mean of the regions' Dice, {PER[settings.per]}"}
    for name, labels in regions.items():
        for metric, text in PROTOCOLS.items():
            protocols[f"{metric}_{name}"] = f"{name} (labels {labels}): {text}, {PER[settings.per]}"
    return Segmentation(
        metrics=metrics,
        summarise=summarise,
        protocols=protocols,
        best_metric="dice",
        row=row,
        columns=("source", "probability", "outlines: green true, red predicted"),
        side=SIDE,
        network_target=network_target,
        probabilities=probabilities,
        regions=regions,
        threshold=settings.threshold,
        per=settings.per,
    )


def masks(probabilities, regions, threshold):
    """Probabilities [..., classes] -> {region: bool [...]}.

    With one class, the foreground's probability is cut at the threshold. With several, a region is
    where the most probable class is among its labels.
    """
    if probabilities.shape[-1] == 1:
        (name,) = regions
        return {name: probabilities[..., 0] > threshold}
    labels = jnp.argmax(probabilities, -1)
    return {name: jnp.isin(labels, jnp.asarray(members)) for name, members in regions.items()}


def grouped_scores(counts, groups):
    """Overlap of each group: counts {"tp": [n], ...} and n labels -> {metric: [groups]}.

    Groups are in the order of their sorted labels.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums = {name: np.bincount(group, weights=values) for name, values in counts.items()}
    return overlap_scores(**sums)


def defined_mean(values):
    """The mean of the values that are not NaN, or None."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
