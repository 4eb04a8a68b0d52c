"""Scores systems that make masks: Dice, IoU and surface distances per image and volume."""

import jax.numpy as jnp
import numpy as np

from jax_pix2pix.evaluation import report as reports
from jax_pix2pix.evaluation import slices as evaluation
from jax_pix2pix.evaluation.masks import (
    best_threshold,
    note_unknown,
    predicted_masks,
    score_patients,
    with_unknown_spacing,
)
from jax_pix2pix.imaging.pictures import grid
from jax_pix2pix.inference.checks import mask_options
from jax_pix2pix.inference.masks import probability_function
from jax_pix2pix.metrics import components as clean_up
from jax_pix2pix.metrics.mask_scores import PROTOCOLS, json_case, over_cases, table_of
from jax_pix2pix.safety.shown import shown

GRID = (
    "scored on the prepared slices, resized to {side} x {side}, in 3D on blocks of slices that do "
    "not overlap; on the source's own pixels or voxels: launch.predict, then launch.compare"
)


def evaluate(
    run, dataset, split, progress=None, mc_dropout=None, largest_components=0, fill_holes=False
):
    """Scores the model at the config's threshold and at the best one of the validation split, and
    the mean training mask. -> (results, table, write) of an Evaluation."""
    del progress  # scoring takes seconds per patient
    config, system, generator = run.config, run.system, run.generator
    components = largest_components
    mc_dropout, _ = mask_options(config, mc_dropout, None, components)
    task, examples = system.task, dataset.examples(split)
    patients = [example.patient for example in examples]
    moments = probability_function(system, mc_dropout)

    def model(source):
        return moments(generator, source)[0]

    batches = dataset.eval_batches

    def score(probabilities, threshold, *clean_up):
        found = predicted_masks(system, probabilities, batches(split), patients, threshold)
        places = [example.slice_index for example in examples]
        spacings_mm = _spacings_mm(config.data, examples)
        return score_patients(task, found, places, spacings_mm, *clean_up)

    of_model, notes = score(model, task.threshold, components, fill_holes)
    scores = {"model": of_model}
    report = {
        "threshold": task.threshold,
        "mc_dropout": mc_dropout,
        "largest_components": components,
        "fill_holes": fill_holes,
        "regions": {name: list(labels) for name, labels in task.regions.items()},
        "protocols": PROTOCOLS | {"grid": GRID.format(side=config.data.image_size)},
    }
    if components:
        report["protocols"]["largest_components"] = clean_up.PROTOCOL.format(count=components)
    if fill_holes:
        report["protocols"]["fill_holes"] = clean_up.FILLED
    if config.generator.get("classes", 1) == 1:
        groups = _groups(task, dataset.examples("validation"))
        threshold, dice = best_threshold(system, model, batches("validation"), groups)
        report["best_threshold"] = {
            "chosen": "highest mean Dice on the validation split, all components kept",
            "threshold": threshold,
            "validation_dice": dice,
        }
        scores[f"model, threshold {threshold}"], _ = score(model, threshold, components, fill_holes)
    if not config.data.depth:
        mean, *_ = evaluation.training_statistics(system, batches("train"))
        mean = task.probabilities(jnp.asarray(mean, jnp.float32))
        scores["mean training mask"], _ = score(
            lambda source: jnp.broadcast_to(mean, (*source.shape[:-1], mean.shape[-1])),
            task.threshold,
            0,
        )

    report["spacing_unknown"] = unknown = with_unknown_spacing(examples)
    report["results"], tables = {}, []
    for region, scope in scores["model"]:
        table = {}
        for name, by_scope in scores.items():
            cases = by_scope[region, scope]
            whose = [patients[slices[0]] for slices, _ in cases]
            table[name] = over_cases([metrics for _, metrics in cases], whose)
            report["results"].setdefault(name, {}).setdefault(region, {})[f"per_{scope}"] = {
                "overall": table[name],
                "cases": [
                    _case(slices, metrics, examples, notes if name == "model" else {})
                    for slices, metrics in cases
                ],
            }
        title = f"{region}, {len(scores['model'][region, scope])} x per {scope}"
        tables.append(table_of(title, table))
    tables += note_unknown(unknown)
    tables += _noted(notes, examples)
    picture = _picture(system, generator, batches(split), scores["model"], examples)
    return report, "\n".join(tables), reports.writer(picture)


def _spacings_mm(data, examples):
    """Computes the spacing of the scored masks, which are resized, from the stored one."""
    factor = np.array([1, *[data.stored_size / data.image_size] * 2])
    return [np.array(example.spacing_mm) * factor for example in examples]


def _groups(task, examples):
    """Labels each slice by the image or volume over which Dice is computed."""
    return [i if task.per == "image" else example.patient for i, example in enumerate(examples)]


def _noted(notes, examples):
    """Tells how many masks of the model look wrong, and describes the first: a list of lines."""
    if not notes:
        return []
    index, note = next(iter(notes.items()))
    first = examples[index]
    return [
        f"{len(notes)} of {len(examples)} predicted masks look wrong; {shown(first.patient)} slice "
        f"{first.slice_index}: {note}"
    ]


def _case(slices, metrics, examples, notes):
    first = examples[slices[0]]
    where = {"patient": first.patient, "file_name": first.file_name}
    if len(slices) == 1:
        where["slice_index"] = first.slice_index
        if slices[0] in notes:
            where["note"] = notes[slices[0]]
    return where | json_case(metrics)


def _picture(system, generator, batches, scores, examples):
    """Draws best, median and worst images by the first region's Dice, among those that hold it."""
    (region, _), *_ = scores
    dice = {
        slices[0]: metrics["dice"]
        for slices, metrics in scores[region, "image"]
        if not np.isnan(metrics["sensitivity"])
    }
    ranked = evaluation.best_median_worst(list(dice.values()))
    indices = [list(dice)[place] for _, place in ranked]
    labels = [
        f"{group}: {examples[i].patient} slice {examples[i].slice_index}, Dice {dice[i]:.3f}"
        for (group, _), i in zip(ranked, indices, strict=True)
    ]
    images = evaluation.slices_at(system, generator, batches, indices)
    task = system.task
    return grid([task.row(*triple) for triple in images], task.columns, labels, task.side)
