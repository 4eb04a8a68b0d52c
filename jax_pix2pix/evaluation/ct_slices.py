"""What `launch.evaluate` does with a system that makes CT slices of masks."""

from input_pipeline import pipeline, prepared
from jax_pix2pix.evaluation import slices as evaluation
from jax_pix2pix.imaging.pictures import grid


def evaluate(config, system, generator, split):
    """Prints the scores of the model and of baselines. -> (results for JSON, picture)."""

    def batches(split):
        return pipeline.eval_batches(config.data, split)

    examples = prepared.examples(config.data, split)
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
    _print_table(results)

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
