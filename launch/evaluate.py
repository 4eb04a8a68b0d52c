"""Scores a trained run on held-out patients: python -m launch.evaluate --workdir=DIR

Results are written to DIR/evaluation, or to the folder --output.
"""

import os

from absl import flags

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.inference.checks import mask_options
from jax_pix2pix.inference.files import check_place
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.stores import remote_workdir, storage
from jax_pix2pix.tasks import kinds
from launch.process import command, run_data

FLAGS = flags.FLAGS
OPTIONS = ("mc_dropout", "largest_components", "fill_holes", "count", "seed", "volumes")


def main():
    options = {name: FLAGS[name].value for name in OPTIONS if FLAGS[name].present}
    storage.check_local("output", FLAGS.output)
    results = None if FLAGS.output else "evaluation"
    with remote_workdir.copied(FLAGS.workdir, results=results) as workdir:
        evaluate(
            workdir, FLAGS.checkpoint, FLAGS.split, options, FLAGS.workdir, FLAGS.data, FLAGS.output
        )  # fmt: skip


def evaluate(workdir, checkpoint, split, options, called, data_dir=None, output=None):
    """Prints the scores and writes them to the folder `output`, or to workdir/evaluation.

    What config.json shows is refused first: the imports below take seconds. TensorFlow is imported
    before JAX takes the devices, so that it claims none.

    Args:
        options: those of `evaluation.evaluate.evaluate` that are given.
        called: the user's name for the workdir.
        data_dir: folder or store of prepared data sets that the user has named; None for the
            config's, if it is on this machine.
    """
    own = workdir_files.finest(workdir)
    config = workdir_files.read_config(own)
    with workdir_files.named_if_incomplete(own):
        split = kinds.evaluated_split(config, split, options)
        if kinds.makes_masks(config):
            passes, components = options.get("mc_dropout"), options.get("largest_components")
            mask_options(config, passes, None, components)
    workdir_files.check_trained(own)
    folder = output or os.path.join(workdir, "evaluation")
    _check_writable(os.path.join(folder, f"{split}.json"), output)
    dataset = run_data.of_run(config, own, data_dir)
    from jax_pix2pix.evaluation.evaluate import evaluate
    from jax_pix2pix.inference.run import open_run
    from launch.process.progress import bar

    run = open_run(own, checkpoint, called)
    with bar("step") as progress:
        found = evaluate(run, dataset, split, progress, **options)
    print(found.table)
    for what, path in found.save(folder, output or workdir):
        print(f"{what}: {remote_workdir.as_given(path)}")


def _check_writable(path, output):
    """Refuses a place for results before minutes of scoring."""
    try:
        check_place(path)
    except OSError as error:
        way = "name another folder" if output else "name a folder with --output"
        where = remote_workdir.as_given(path)
        reason = error.strerror or "Permission denied"
        raise WorkdirError(f"{where} cannot be written ({reason}): {way}") from None


def _define_flags():
    """Not run at import: two commands may share a flag's name, and tests import both."""
    flags.DEFINE_string("workdir", None, "a trained run")
    flags.DEFINE_enum(
        "split", None, kinds.SPLITS, "split to score; default test, for pyramids always train"
    )
    flags.DEFINE_string(
        "output", None, "folder for the results, made if missing; default WORKDIR/evaluation"
    )
    flags.DEFINE_string("checkpoint", None, "best, last or a step; default best, for pyramids last")
    flags.DEFINE_integer(
        "mc_dropout",
        None,
        "number of passes with dropout to average (masks only); default "
        "config.evaluation.mc_dropout",
    )
    flags.DEFINE_integer(
        "largest_components",
        0,
        "number of components to keep, the largest, first those off the picture's border (masks "
        "only); 0: all",
    )
    flags.DEFINE_boolean("fill_holes", False, "fill holes in a picture or volume (masks only)")
    flags.DEFINE_integer("count", 16, "number of samples to draw (pyramids only)")
    flags.DEFINE_integer("seed", 0, "seed of the samples (pyramids only)")
    flags.DEFINE_integer("volumes", 0, "number of volumes, the first ones (pyramids only); 0: all")
    run_data.define_flag()
    flags.mark_flag_as_required("workdir")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
