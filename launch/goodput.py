"""Shows where the time of a run went: python -m launch.goodput --workdir=DIR

It reads metrics.jsonl alone, also of a pyramid or of a run that is still going. It prints a line
for each start and one for all, with the shares of the wall time: steps that count, input that the
device waited for, compilation, validation and pictures, checkpoints, start-up, steps that were lost
to a restart and trained again, and time between two processes.
"""

from absl import flags

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs import goodput
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.stores import remote_workdir
from launch.process import command

FLAGS = flags.FLAGS


def main():
    with remote_workdir.copied(FLAGS.workdir, checkpoints=False) as directory:
        workdir_files.check_files(directory)
        table = goodput.report(directory, FLAGS.json)
    if table is None:
        raise WorkdirError(
            f"{FLAGS.workdir}: no line of metrics.jsonl says where time went: the run has not come "
            "to its first step, or is of an earlier version"
        )
    print(table)


def _define_flags():
    """Not run at import: two commands may share a flag's name."""
    flags.DEFINE_string("workdir", None, "workdir of a run", required=True)
    flags.DEFINE_string("json", None, "JSON file for the numbers")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
