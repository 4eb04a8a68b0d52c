"""Evaluation of a segmentation system: masks of each patient, its scores, the best threshold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.metrics.components import largest_components
from jax_pix2pix.metrics.mask_scores import case_scores
from jax_pix2pix.metrics.overlap import overlap_counts
from jax_pix2pix.evaluation.slices import check_any_counted, collect
from jax_pix2pix.tasks.segmentation import grouped_scores, masks

THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())


def probability_function(system, mc_dropout=0):
    """Compiles a generator's probabilities.

    Args:
        mc_dropout: passes with dropout that are averaged (Gal and Ghahramani, ICML 2016); 0 is
            one pass without.

    Returns:
        (generator, source) -> (mean, standard deviation) over passes of the probabilities,
        [n, *spatial, classes]; the deviation is 0 without dropout.

    Raises:
        ConfigError: the generator has no dropout.
    """
    if mc_dropout and not getattr(system.generator, "dropout", 0):
        raise ConfigError(f"mc_dropout={mc_dropout}, but the generator has no dropout: use 0")

    def probabilities(generator, source, key=None):
        return system.task.probabilities(generate(system, generator, source, key))

    @jax.jit
    def moments(generator, source):
        if not mc_dropout:
            mean = probabilities(generator, source)
            return mean, jnp.zeros_like(mean)
        keys = jax.random.split(jax.random.key(0), mc_dropout)
        passes = jax.lax.map(functools.partial(probabilities, generator, source), keys)
        return passes.mean(0), passes.std(0)

    return moments


def best_threshold(system, probabilities, batches, groups):
    """The threshold with the highest mean Dice, of THRESHOLDS: for the validation split.

    Args:
        probabilities: source -> [n, *spatial, 1].
        batches: stored batches with "index".
        groups: the image or volume of each slice, over which Dice is computed.

    Returns:
        (threshold, {threshold: Dice}).
    """

    @jax.jit
    def score(batch):
        source, target = system.normalise(batch)
        predicted = probabilities(source)[..., 0]
        reference = system.task.probabilities(target)[..., 0] > 0.5
        counts = {}
        for threshold in THRESHOLDS:
            for name, count in overlap_counts(predicted > threshold, reference).items():
                counts[f"{threshold} {name}"] = count
        return counts | {"index": batch["index"]}

    index, columns = collect(score, batches)
    groups = np.asarray(groups)[index]
    dice = {}
    for threshold in THRESHOLDS:
        counts = {name: columns[f"{threshold} {name}"] for name in ("tp", "fp", "fn", "tn")}
        dice[threshold] = float(grouped_scores(counts, groups)["dice"].mean())
    return max(dice, key=lambda threshold: dice[threshold]), dice


def predicted_masks(system, probabilities, batches, patients, threshold):
    """Masks patient by patient, so that memory does not grow with their number.

    Args:
        probabilities: as above, of any number of classes.
        batches: stored batches with "index", in the order of the slices.
        patients: of each slice; a patient's slices are neighbours.

    Yields:
        (indices of the patient's slices, {region: (predicted, reference)}), bool [slices, h, w];
        slices that could not be read are left out.

    Raises:
        ConfigError: there is none that could.
    """
    regions = system.task.regions

    @jax.jit
    def outputs(batch):
        source, target = system.normalise(batch)
        predicted = masks(probabilities(source), regions, threshold)
        reference = masks(system.task.probabilities(target), regions, 0.5)
        return {name: (predicted[name], reference[name]) for name in regions}

    waiting = {}  # slice index -> its masks

    def flush():
        order = sorted(waiting)
        pairs = {
            name: tuple(np.stack([waiting[i][name][k] for i in order]) for k in (0, 1))
            for name in regions
        }
        waiting.clear()
        return np.array(order), pairs

    for batch in batches:
        found = jax.device_get(outputs({name: batch[name] for name in ("source", "target")}))
        for place in np.argwhere(batch["index"] >= 0):
            place = tuple(place)
            index = int(batch["index"][place])
            if waiting and patients[index] != patients[min(waiting)]:
                yield flush()
            waiting[index] = {
                name: (predicted[place], reference[place])
                for name, (predicted, reference) in found.items()
            }
    check_any_counted(len(waiting))
    yield flush()


def score_patients(task, found, places, spacings_mm, components):
    """Scores by image, and by volume where the task scores volumes.

    Surfaces are of what the task scores, images in the plane or volumes, and left out where the
    spacing is unknown or a volume's slices have gaps between them.

    Args:
        found: what ``predicted_masks`` yields.
        places: of each slice in its volume.
        spacings_mm: of each slice's masks, between slices, rows and columns; 0 where unknown.
        components: how many of the largest ones of all regions together to keep, in a predicted
            image, or in a volume without gaps; 0 keeps all of them.

    Returns:
        {(region, "image" or "volume"): cases}, a case being (indices of its slices, {metric:
        float}), in the order of the slices.
    """
    scores = {}
    for indices, pairs in found:
        spacing = tuple(spacings_mm[indices[0]])
        whole = task.per == "volume" and (np.diff([places[i] for i in indices]) == 1).all()
        kept = True
        if components:
            everything = np.logical_or.reduce([predicted for predicted, _ in pairs.values()])
            blocks = [everything] if whole else everything
            kept = np.concatenate(
                [
                    largest_components(block, components).reshape(-1, *block.shape[-2:])
                    for block in blocks
                ]
            )
        for name, (predicted, reference) in pairs.items():
            predicted = predicted & kept
            if task.per == "volume":
                metrics = case_scores(predicted, reference, _known(spacing) if whole else None)
                scores.setdefault((name, "volume"), []).append((indices.tolist(), metrics))
            in_plane = _known(spacing[1:]) if task.per == "image" else None
            scores.setdefault((name, "image"), []).extend(
                ([int(index)], case_scores(image, truth, in_plane))
                for index, image, truth in zip(indices, predicted, reference, strict=True)
            )
    return scores


def _known(spacing_mm):
    return spacing_mm if all(distance > 0 for distance in spacing_mm) else None
