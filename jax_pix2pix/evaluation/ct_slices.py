"""Scores systems that make CT slices from label masks, beside baselines."""

from jax_pix2pix.evaluation import report
from jax_pix2pix.evaluation import slices as evaluation
from jax_pix2pix.imaging.pictures import grid
from jax_pix2pix.safety.shown import shown


def evaluate(run, dataset, split, progress=None):
    """Scores the model and baselines. -> (results, table, write) of an Evaluation."""
    del progress  # scoring takes seconds
    system, generator = run.system, run.generator
    batches, examples = dataset.eval_batches, dataset.examples(split)
    statistics = evaluation.training_statistics(system, batches("train"))
    index, of_model = evaluation.slice_scorer(system)(generator, batches(split))
    _, of_baselines = evaluation.score_baselines(system, statistics, batches(split))
    scores = {"model": of_model} | of_baselines
    examples = [examples[i] for i in index]  # those that can be read
    patients = [example.patient for example in examples]
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
    columns = scores["model"]
    ranked = evaluation.best_median_worst(columns[system.task.best_metric])
    labels = [
        f"{group}: {examples[i].patient} slice {examples[i].slice_index}, "
        + ", ".join(f"{metric} {values[i]:.3g}" for metric, values in columns.items())
        for group, i in ranked
    ]
    indices = [index[i] for _, i in ranked]
    images = evaluation.slices_at(system, generator, batches(split), indices)
    task = system.task
    picture = grid([task.row(*x) for x in images], task.columns, labels, task.side)
    return results, _table(results), report.writer(picture)


def _table(results):
    metrics = list(results["protocols"])
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in metrics) + f"{'images':>8}"]
    for name, summary in results["results"].items():
        rows = {name: summary["overall"]} | {
            f"  {patient}": values for patient, values in summary["by_group"].items()
        }
        for label, values in rows.items():
            cells = "".join(f"{values[metric]:12.4f}" for metric in metrics)
            lines.append(f"{shown(label):24}{cells}{values['images']:8}")
    return "\n".join(lines)
