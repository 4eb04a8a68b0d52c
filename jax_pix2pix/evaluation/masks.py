"""Evaluates a segmentation system: each patient's masks and scores, and the best threshold."""

import jax
import numpy as np

from jax_pix2pix.evaluation.slices import check_any_counted, collect
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics.components import border_note, cleaned
from jax_pix2pix.metrics.mask_scores import score_masks
from jax_pix2pix.metrics.overlap import overlap_counts
from jax_pix2pix.safety.shown import shown
from jax_pix2pix.tasks.segmentation import grouped_scores, masks

MOST_SHOWN = 5  # patients, in a line of a table
THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())


def best_threshold(system, probabilities, batches, groups):
    """Finds the one of THRESHOLDS with the highest mean Dice, for the validation split.

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
    """Predicts masks patient by patient, so that memory does not grow with their number.

    Args:
        probabilities: as for `best_threshold`, with any number of classes.
        batches: stored batches with "index", in the order of the slices.
        patients: the patient of each slice; a patient's slices are neighbours.

    Yields:
        (indices of the patient's slices, {region: (predicted, reference)}), bool [slices, h, w];
        slices that could not be read are left out.

    Raises:
        ConfigError: no slice could be read.
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
        shown = {name: batch[name] for name in ("source", "target", "index")}
        found = jax.device_get(outputs(shown))
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


def score_patients(task, found, places, spacings_mm, components, fill_holes=False):
    """Scores each image, and each volume where the task scores volumes.

    Surface distances are those of images in the plane or of volumes, whichever the task scores.
    They are left out where the spacing is unknown or a volume's slices have gaps between them.

    Args:
        found: what ``predicted_masks`` yields.
        places: the number of each slice in its volume.
        spacings_mm: of each slice's masks, between slices, rows and columns; 0 where unknown.
        components: how many of the largest components of all regions together to keep, in a
            predicted image or in a volume without gaps; 0 keeps all of them.
        fill_holes: whether holes of all regions together are filled, likewise.

    Returns:
        ({(region, "image" or "volume"): cases} in the order of the slices; notes). A case is
        (indices of its slices, {metric: float}); notes are {index of a slice: what looks wrong with
        its predicted masks, in words}.
    """
    scores, notes = {}, {}
    for indices, pairs in found:
        spacing = tuple(spacings_mm[indices[0]])
        whole = task.per == "volume" and (np.diff([places[i] for i in indices]) == 1).all()
        pairs = _cleaned(pairs, whole, components, fill_holes)
        everything = np.logical_or.reduce([predicted for predicted, _ in pairs.values()])
        for index, image in zip(indices.tolist(), everything, strict=True):
            if note := border_note(image):
                notes[index] = note
        for name, (predicted, reference) in pairs.items():
            if task.per == "volume":
                metrics = score_masks(predicted, reference, _known(spacing) if whole else None)
                scores.setdefault((name, "volume"), []).append((indices.tolist(), metrics))
            in_plane = _known(spacing[1:]) if task.per == "image" else None
            scores.setdefault((name, "image"), []).extend(
                ([int(index)], score_masks(image, truth, in_plane))
                for index, image, truth in zip(indices, predicted, reference, strict=True)
            )
    return scores, notes


def _cleaned(pairs, whole, components, fill_holes):
    """Cleans up the predicted masks of {region: (predicted, reference)} all together."""
    if not components and not fill_holes:
        return pairs
    bits = np.arange(len(pairs), dtype=np.uint32)  # a voxel may belong to several regions
    predicted = [mask for mask, _ in pairs.values()]
    labels = np.zeros(predicted[0].shape, np.uint32)
    for mask, bit in zip(predicted, bits, strict=True):
        labels |= mask.astype(np.uint32) << bit
    blocks = [labels] if whole else [*labels]
    labels = np.concatenate(
        [cleaned(block, components, fill_holes).reshape(-1, *block.shape[-2:]) for block in blocks]
    )
    return {
        name: ((labels >> bit & 1).astype(bool), reference)
        for bit, (name, (_, reference)) in zip(bits, pairs.items(), strict=True)
    }


def with_unknown_spacing(examples):
    """Patients of whom some slice has no spacing between its rows or columns.

    That between slices does not count: a picture has none.

    Args:
        examples: of a Dataset's split, with spacing_mm, 0 where unknown.
    """
    return sorted({one.patient for one in examples if not all(one.spacing_mm[1:])})


def note_unknown(patients):
    """The lines of a table about patients whose spacing is unknown."""
    if not patients:
        return []
    shown_first = ", ".join(map(shown, patients[:MOST_SHOWN]))
    more = f" and {len(patients) - MOST_SHOWN} more" if len(patients) > MOST_SHOWN else ""
    return [f"{UNKNOWN} of {shown_first}{more}"]


def _known(spacing_mm):
    return spacing_mm if all(distance > 0 for distance in spacing_mm) else None
