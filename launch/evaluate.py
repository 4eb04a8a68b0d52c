"""Scores a trained run on held-out patients: python -m launch.evaluate --workdir=DIR"""

import json
import os

import numpy as np
from absl import flags

from input_pipeline import pipeline
from jax_pix2pix import evaluate as evaluation
from jax_pix2pix.pictures import COMPARISON_COLUMNS, comparison_row, grid
from jax_pix2pix.workdir import load_run
from launch import command

_WORKDIR = flags.DEFINE_string("workdir", None, "a trained run")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "what to score")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step")
flags.mark_flag_as_required("workdir")


def main():
    evaluate(_WORKDIR.value, _SPLIT.value, _CHECKPOINT.value)


def evaluate(workdir, split, checkpoint):
    """Writes workdir/evaluation/<split>.json and <split>.png, prints the table."""
    config, system, generator, step = load_run(workdir, checkpoint)

    def batches(split, indices=None):
        return pipeline.eval_batches(config.data, split, indices=indices)

    examples = pipeline.examples(config.data, split)
    patients = [example.patient for example in examples]
    statistics = evaluation.training_statistics(system, batches("train"))
    scores = {"model": evaluation.score_images(system, generator, batches(split))}
    scores |= evaluation.score_baselines(system, statistics, batches(split))

    results = {
        "split": split,
        "checkpoint": checkpoint,
        "step": step,
        "protocols": system.protocols,
        "baselines": {
            "mean_training_target": "the mean of all training CT slices",
            "scaled_source": "slope * mask + intercept, least squares over the training pixels",
        },
        "results": {
            name: evaluation.summarise(columns, patients) for name, columns in scores.items()
        },
    }
    folder = os.path.join(workdir, "evaluation")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{split}.json")
    with open(path, "w") as file:
        json.dump(results, file, indent=2)

    picture = os.path.join(folder, f"{split}.png")
    indices, labels = _best_median_worst(scores["model"], system.best_metric, examples)
    images = evaluation.images_of(system, generator, batches(split, indices))
    rows = [comparison_row(*triple) for triple in images]
    grid(rows, COMPARISON_COLUMNS, labels).save(picture)
    _print_table(results)
    print(f"protocols and values by patient: {path}\nbest, median and worst slices: {picture}")


def _best_median_worst(scores, best_metric, examples):
    """Two slices each by best_metric -> (indices, captions)."""
    ranked = np.argsort(scores[best_metric])[::-1]
    middle = len(ranked) // 2
    groups = {"best": ranked[:2], "median": ranked[middle : middle + 2], "worst": ranked[-2:]}
    indices = [int(i) for group in groups.values() for i in group]
    labels = [
        f"{name}: {examples[i].patient} slice {examples[i].slice_index}, "
        + ", ".join(f"{metric} {values[i]:.3g}" for metric, values in scores.items())
        for name, group in groups.items()
        for i in group
    ]
    return indices, labels


def _print_table(results):
    metrics = list(results["protocols"])
    print(f"{'':24}" + "".join(f"{name:>12}" for name in metrics) + f"{'images':>8}")
    for name, summary in results["results"].items():
        rows = {name: summary["overall"]} | {
            f"  {patient}": values for patient, values in summary["by_group"].items()
        }
        for label, values in rows.items():
            cells = "".join(f"{values[metric]:12.4f}" for metric in metrics)
            print(f"{label:24}{cells}{values['images']:8}")


if __name__ == "__main__":
    command.run(main)
