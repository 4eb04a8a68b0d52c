"""Scores a trained run on held-out patients: python -m launch.evaluate --workdir=DIR"""

import json
import os

from absl import flags

from input_pipeline import pipeline
from jax_pix2pix import evaluate as evaluation
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.pictures import grid
from jax_pix2pix.segmentation import Segmentation
from jax_pix2pix.workdir import load_run
from launch import command, evaluate_segmentation

_WORKDIR = flags.DEFINE_string("workdir", None, "a trained run")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "what to score")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step")
_MC_DROPOUT = flags.DEFINE_integer(
    "mc_dropout", None, "of masks: passes with dropout to average; config.evaluation.mc_dropout"
)
_COMPONENTS = flags.DEFINE_integer(
    "largest_components", 0, "of masks: keep so many components of a prediction; 0 keeps all"
)
flags.mark_flag_as_required("workdir")


def main():
    evaluate(_WORKDIR.value, _SPLIT.value, _CHECKPOINT.value)


def evaluate(workdir, split, checkpoint):
    """Prints the scores and writes workdir/evaluation/<split>.json and <split>.png."""
    config, system, generator, step = load_run(workdir, checkpoint)
    header = {"split": split, "checkpoint": checkpoint, "step": step}
    if isinstance(system.task, Segmentation):
        mc_dropout = (
            config.evaluation.mc_dropout if _MC_DROPOUT.value is None else _MC_DROPOUT.value
        )
        for name, value in (("mc_dropout", mc_dropout), ("largest_components", _COMPONENTS.value)):
            if value < 0:
                raise ConfigError(f"--{name}={value}: use 0 or more")
        results, picture = evaluate_segmentation.evaluate(
            config, system, generator, split, mc_dropout, _COMPONENTS.value
        )
    else:
        if _MC_DROPOUT.value is not None or _COMPONENTS.value:
            raise ConfigError(
                "--mc_dropout and --largest_components are of systems that make masks"
            )
        results, picture = evaluate_synthesis(config, system, generator, split)

    folder = os.path.join(workdir, "evaluation")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{split}.json")
    with open(path, "w") as file:
        json.dump(header | results, file, indent=2, allow_nan=False)
    picture_path = os.path.join(folder, f"{split}.png")
    picture.save(picture_path)
    print(f"protocols and all values: {path}\nbest, median and worst: {picture_path}")


def evaluate_synthesis(config, system, generator, split):
    """Prints the scores of the model and of baselines. -> (results for JSON, picture)."""

    def batches(split):
        return pipeline.eval_batches(config.data, split)

    examples = pipeline.examples(config.data, split)
    patients = [example.patient for example in examples]
    statistics = evaluation.training_statistics(system, batches("train"))
    scores = {"model": evaluation.slice_scorer(system)(generator, batches(split))}
    scores |= evaluation.score_baselines(system, statistics, batches(split))
    results = {
        "protocols": system.task.protocols,
        "baselines": {
            "mean_training_target": "the mean of all training CT slices",
            "scaled_source": "slope * mask + intercept, least squares over the training pixels",
        },
        "results": {
            name: evaluation.summarise(system.task, columns, patients)
            for name, columns in scores.items()
        },
    }
    _print_table(results)

    columns = scores["model"]
    ranked = evaluation.best_median_worst(columns[system.task.best_metric])
    labels = [
        f"{group}: {examples[i].patient} slice {examples[i].slice_index}, "
        + ", ".join(f"{metric} {values[i]:.3g}" for metric, values in columns.items())
        for group, i in ranked
    ]
    indices = [i for _, i in ranked]
    images = evaluation.slices_at(system, generator, batches(split), indices)
    task = system.task
    return results, grid([task.row(*x) for x in images], task.columns, labels, task.side)


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
