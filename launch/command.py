"""What every command does: parse flags, be quiet, and say in one line what a user can mend.

Exit codes: 0 done; 1 an error that a restart would repeat; 42 (EXIT_RESTART) stopped on request and
saved, or hung, so that a launcher starts the same command again, as it does when a process ended by
a signal.
"""

import os
import sys
import threading
import traceback

from absl import app, flags, logging

from input_pipeline.safe_io import DataError
from jax_pix2pix.errors import BenchmarkError, ConfigError, TrainingError, WorkdirError
from jax_pix2pix.process_log import logger

MENDABLE = (DataError, ConfigError, WorkdirError, TrainingError, BenchmarkError, OSError)


def run(main):
    """Parses the flags, runs main() and exits with its code."""

    def quiet(argv):
        del argv
        logging.set_verbosity(logging.ERROR)  # Orbax, TFDS and JAX tell their story at INFO
        # What fails in a thread of theirs is raised where it is waited for, and told there.
        logging.get_absl_handler().addFilter(lambda record: record.exc_info is None)
        threading.excepthook = _warn_of_thread
        try:
            code = main()
            logger.info("end, exit code %d", code or 0)
            return code
        except MENDABLE as error:
            _exit(error)
        except Exception:  # a mistake of ours
            logger.exception("end, exit code 1")
            traceback.print_exc()
            _end()

    app.run(quiet, flags_parser=_parse_flags)


def _parse_flags(argv):
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # ml_collections, of a field that the config does not have: in AttributeError is a KeyError,
        # whose text would be quoted once more.
        (reason,) = error.args
        reason = reason.args[0] if isinstance(reason, KeyError) else reason
        _exit(f"--config.…: the config has no field {reason}")
    except (flags.Error, TypeError, ValueError) as error:
        # ml_collections puts the traceback of a failing config file into the message.
        _exit(str(error).strip().splitlines()[-1] if "Traceback" in str(error) else error)


def _warn_of_thread(failed):
    text = " ".join(str(failed.exc_value).split())[:300]
    logger.warning("a background thread failed: %s", text)
    print(f"\nwarning: a background thread failed: {text}", file=sys.stderr, flush=True)


def _exit(error):
    text = f"error: {' '.join(str(error).split())}"
    logger.error("%s; end, exit code 1", text, exc_info=isinstance(error, Exception))
    print(text, file=sys.stderr)
    _end()


def _end():
    """Exit code 1, at once: TensorFlow's threads, and JAX at its exit for minutes, would wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
