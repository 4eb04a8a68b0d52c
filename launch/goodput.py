"""Where the time of a run went: python -m launch.goodput --workdir=DIR

Of metrics.jsonl alone, of a run that is still going or of a pyramid too. A line for each start and
one in all, with the share of the wall time in steps that count, input that the device waited for,
compilation, validation and pictures, checkpoints, start-up, steps that were lost to a restart and
trained again, and time between two processes.
"""

import json
import os
import sys

from absl import flags

from jax_pix2pix.logs import goodput
from jax_pix2pix.errors import WorkdirError
from launch.process import command, remote_workdir

FLAGS = flags.FLAGS


def main():
    with remote_workdir.copied(FLAGS.workdir, checkpoints=False) as directory:
        reported = report(directory, FLAGS.json)
    if not reported:
        raise WorkdirError(
            f"{FLAGS.workdir}: no line of metrics.jsonl says where time went: the run has not come "
            "to its first step, or is of an earlier version"
        )


def report(workdir, path=None):
    """Prints the table and writes the JSON. -> whether there is something to report."""
    summary = goodput.of_workdir(workdir)
    if summary is None:
        return False
    print(goodput.table(summary))
    if path:
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=2)
        os.replace(temporary, path)
    return True


def report_end(workdir):
    """`report` of a run that came to an end, into goodput.json."""
    try:
        report(workdir, os.path.join(workdir, "goodput.json"))
    except WorkdirError as error:  # the log is gone or damaged, and the run is not
        print(f"warning: {error}", file=sys.stderr)


def _define_flags():
    """Not at import: flags of two commands may share a name."""
    flags.DEFINE_string("workdir", None, "of a run", required=True)
    flags.DEFINE_string("json", None, "where to write the numbers")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
