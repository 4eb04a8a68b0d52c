"""What every command does: parse flags, be quiet, and say in one line what a user can mend.

Exit codes: 0 done; 1 an error that a restart would repeat; 42 stopped on request and saved, so
that a launcher starts the same command again.
"""

import os
import sys

from absl import app, flags, logging

from input_pipeline.safe_io import DataError
from jax_pix2pix.errors import BenchmarkError, ConfigError, TrainingError, WorkdirError

EXIT_RESTART = 42
MENDABLE = (DataError, ConfigError, WorkdirError, TrainingError, BenchmarkError, OSError)


def run(main):
    """Parses the flags, runs main() and exits with its code."""

    def quiet(argv):
        del argv
        logging.set_verbosity(logging.ERROR)  # Orbax, TFDS and JAX tell their story at INFO
        try:
            return main()
        except MENDABLE as error:
            _exit(error)

    app.run(quiet, flags_parser=_parse_flags)


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # ml_collections, of a field that the config does not have
        _exit(f"--config.…: the config has no field {error}")
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        # ml_collections puts the traceback of a failing config file into the message.
        _exit(str(error).strip().splitlines()[-1] if "Traceback" in str(error) else error)


def _exit(error):
    sys.stdout.flush()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    # Not sys.exit: threads of TensorFlow and of a cluster's other processes would delay the end.
    os._exit(1)
