"""Trains a pyramid with more and more terms of its loss, and writes a table of the scores.

    python -m launch.ablation --config=configs/ct_pyramid_3d.py:quickstart --workdir=DIR

Each row is a run of its own in DIR/A, DIR/B, ... After a stop, the same command resumes and skips
finished rows. DIR/table.md and table.csv have the published values too.
"""

import json
import os
import shlex
import sys

import jax
from absl import flags

from input_pipeline.dataset import Dataset
from jax_pix2pix.errors import EXIT_RESTART, ConfigError, WorkdirError
from jax_pix2pix.evaluation.evaluate import evaluate
from jax_pix2pix.evaluation.pyramid import COUNT
from jax_pix2pix.evaluation.report import write_csv
from jax_pix2pix.inference.run import open_run
from jax_pix2pix.logs.metrics_log import read_metrics
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.runs.workdir_files import check_files, last_scale, scale_directory
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.safety.shown import code
from jax_pix2pix.start import Start
from jax_pix2pix.tasks.kinds import has_scales
from jax_pix2pix.train import train
from launch.process import command, distributed, train_flags  # noqa: F401

FLAGS = flags.FLAGS  # with those of train_flags
flags.mark_flags_as_required(["config", "workdir"])

TERMS = ("adversarial", "reconstruction", "projection", "segmentation")
# {config.pyramid.dimensions: {row: (terms, published (MSE, PSNR in dB, SSIM))}}
ROWS = {
    3: {
        "A": (TERMS[:1], (0.0054, 22.6, 0.751)),
        "B": (TERMS[:2], (0.0025, 26.0, 0.836)),
        "C": (TERMS[:3], (0.0024, 26.1, 0.843)),
        "D": (TERMS, (0.0017, 27.93, 0.877)),
    },
    2: {
        "A": (TERMS[:2], (0.00011, 39.49, 0.988)),
        "B": (TERMS[:3], (0.00049, 33.09, 0.955)),
        "C": (TERMS, (0.00032, 34.93, 0.967)),
        "D": ((*TERMS[:2], "segmentation"), (0.00006, 41.97, 0.9956)),
    },
}
MAX_EVALUATION = 2**28  # bytes of an evaluation's JSON; a volume has some 500
SIDE, STEPS = 141, 15_000  # published: pixels at the finest scale, iterations of all scales
COLUMNS = {
    "row": "row",
    "terms": "terms of G's loss",
    "mse": "MSE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "diversity": "diversity",
    "published_mse": "published MSE",
    "published_psnr": "published PSNR",
    "published_ssim": "published SSIM",
    "steps": "steps",
    "seconds": "seconds",
}


def main():
    storage.check_local("workdir", FLAGS.workdir)
    distributed.initialize(FLAGS.config.heartbeat_seconds)
    options = FLAGS.terms, FLAGS.count, FLAGS.seed, FLAGS.volumes, FLAGS.allow_config_change
    if not ablate(FLAGS.config, FLAGS.workdir, *options):
        print("stopped on request and saved; the same command goes on from here")
        return EXIT_RESTART
    return 0


def ablate(config, workdir, names, count, seed, volumes, allowed):
    """Trains and evaluates the rows with these names, and writes the table after each.

    Returns:
        Whether all are done; False if the machine asked the run to stop.

    Raises:
        ConfigError: the config is no pyramid, there is no such row, a term's weight is 0, or there
            are several processes.
        WorkdirError, OSError: a file of the workdir is damaged, a link, or cannot be written.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            "launch.ablation is of one process, of as many devices as it has: train the rows apart"
        )
    configs = {name: row_config(config, name) for name in names}
    if not configs:
        raise ConfigError(f"--terms is empty: use some of {', '.join(ROWS[3])}")
    check_files(workdir)
    rows = []
    for name, of_row in configs.items():
        directory = os.path.join(workdir, name)
        print(f"row {name}: {' + '.join(terms_of(of_row, name))}", flush=True)
        dataset = Dataset(of_row.data, prepare=True)
        start = Start(allowed=allowed, coordinator=distributed.coordinator())
        if not train(of_row, directory, dataset, start):
            return False
        results = _evaluated(directory, dataset, count, seed, volumes)
        rows.append(table_row(name, of_row, directory, results))
        write_table(workdir, of_row, results, rows)
    return True


def row_config(config, name):
    """A copy of the config with weight 0 for all terms that the row lacks.

    Raises:
        ConfigError: the config is no pyramid, there is no such row, or a term of it has weight 0.
    """
    if not has_scales(config):
        raise ConfigError(
            f'the ablation is of a pyramid, not of system "{config.system}": use '
            "--config=configs/ct_pyramid_3d.py or ct_pyramid_2d.py"
        )
    config, terms = config.copy_and_resolve_references(), terms_of(config, name)
    for term in TERMS:
        field = f"{term}_weight"
        if term not in terms:
            config.loss[field] = 0.0
        elif not config.loss[field]:
            raise ConfigError(f"config.loss.{field} is 0, and row {name} is trained with that term")
    return config


def terms_of(config, name):
    """The terms of a row, for the config's dimensions."""
    rows = ROWS.get(config.pyramid.dimensions)
    if rows is None:
        raise ConfigError(f"config.pyramid.dimensions={config.pyramid.dimensions}: use 2 or 3")
    if name not in rows:
        raise ConfigError(f'--terms: there is no row "{name}", use some of {", ".join(rows)}')
    return rows[name][0]


def _evaluated(directory, dataset, count, seed, volumes):
    """The row's evaluation, reused if a file has it for the same step and samples."""
    path = os.path.join(directory, "evaluation", "train.json")
    last, _ = last_scale(directory)
    wanted = {"step": _logged(last)[-1]["step"], "samples": count, "seed": seed, "limit": volumes}
    if os.path.exists(path):
        try:
            results = dict(json.loads(safe_files.read(path, MAX_EVALUATION, directory)))
        except (ValueError, TypeError, RecursionError):
            raise WorkdirError(f"{path} is no valid JSON: delete it for a new one") from None
        if wanted.items() <= results.items():
            print(f"already evaluated: {path}")
            return results
    options = {"count": count, "seed": seed, "volumes": volumes}
    evaluation = evaluate(open_run(directory, "last"), dataset, **options)
    print(evaluation.table)
    for what, path in evaluation.save(os.path.join(directory, "evaluation"), directory):
        print(f"{what}: {path}")
    return evaluation.results


def table_row(name, config, directory, results):
    """A row of the table: {column of COLUMNS: value}."""
    terms, published = ROWS[config.pyramid.dimensions][name]
    of_row = results["results"]["memorisation"]["overall"]
    _, last = last_scale(directory)
    scales = [_logged(scale_directory(directory, scale)) for scale in range(last + 1)]
    return {
        "row": name,
        "terms": " + ".join(terms),
        **{metric: of_row[metric]["mean"] for metric in ("mse", "psnr", "ssim")},
        "diversity": results["diversity"]["diversity"],
        **dict(zip(("published_mse", "published_psnr", "published_ssim"), published, strict=True)),
        "steps": sum(lines[-1]["step"] for lines in scales),
        "seconds": sum(_seconds(lines, config.data.batch_size) for lines in scales),
    }


def _logged(directory):
    """The training lines of a scale's metrics.jsonl."""
    return [line for line in read_metrics(directory) if line["split"] == "train"]


def _seconds(lines, batch_size):
    """Seconds of the steps, from the logged speeds, so that pauses of a run do not count."""
    steps = [line["step"] for line in lines]
    counts = (stop - start for start, stop in zip([0, *steps], steps, strict=False))
    speeds = (line["images_per_second"] for line in lines)
    return sum(n * batch_size / speed for n, speed in zip(counts, speeds, strict=True))


def write_table(workdir, config, results, rows):
    """Writes table.md and table.csv.

    Args:
        results: of the last row's evaluation, whose size and counts hold for all rows.
        rows: from `table_row`.
    """
    write_csv(os.path.join(workdir, "table.csv"), list(COLUMNS), rows, workdir)
    path = os.path.join(workdir, "table.md")
    command = redacted(shlex.join(sys.argv[1:]))
    safe_files.write(path, markdown(config, results, rows, command), workdir)
    print(f"the table: {path}")


def markdown(config, results, rows, arguments):
    """The table and how it was made, as Markdown."""
    size = " x ".join(map(str, results["size"]))
    steps = max(row["steps"] for row in rows)
    reduced = results["size"][-1] < SIDE or steps < STEPS
    lines = [
        f"# Ablation of the losses, CT-GAN in {config.pyramid.dimensions}D",
        "",
        code(f"python -m launch.ablation {arguments}"),
        "",
        f"{results['training_volumes']} training volume(s), finest scale {size} voxels, {steps} "
        f"iterations a row, {results['samples']} samples. Seconds are of the steps alone, on "
        f"{jax.device_count()} {jax.devices()[0].device_kind}.",
        *(
            [
                f"Reduced: published are {SIDE} pixels a side and {STEPS} iterations, on another "
                "scan, so that the published columns are no yardstick for these."
            ]
            if reduced
            else []
        ),
        "MSE, PSNR and SSIM are of the reconstruction of the training volumes in [0, 1]: a measure "
        "of memorisation, not of quality. Diversity: standard deviation over samples, relative to "
        "the training volume's.",
        "",
        f"| {' | '.join(COLUMNS.values())} |",
        "|---" * len(COLUMNS) + "|",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _cells(row):
    digits = {"psnr": ".2f", "seconds": ".0f", "steps": "d", "mse": ".5f", "row": "", "terms": ""}
    for column, value in row.items():
        kind = column.removeprefix("published_")
        yield "undefined" if value is None else format(value, digits.get(kind, ".3f"))


def _define_flags():
    """Not run at import: two commands may share a flag's name."""
    flags.DEFINE_list("terms", ["A", "B", "C", "D"], "rows of the table, with commas, no spaces")
    flags.DEFINE_integer("count", COUNT, "number of samples to evaluate a row with")
    flags.DEFINE_integer("seed", 0, "seed of the samples")
    flags.DEFINE_integer("volumes", 0, "number of training volumes to evaluate a row with; 0: all")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
