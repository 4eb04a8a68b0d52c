"""What every command does: parse flags, be quiet, and say in one line what a user can mend.

Exit codes: 0 done; 1 an error that a restart would repeat; 42 (EXIT_RESTART) stopped on request and
saved, or hung, or left by another process, so that a launcher starts the same command again, as it
does when a process ended by a signal.
"""

import os
import re
import sys
import threading
import traceback

from absl import app, flags, logging

from input_pipeline.safe_io import DataError
from jax_pix2pix.errors import (
    EXIT_RESTART,
    BenchmarkError,
    ConfigError,
    TrainingError,
    WorkdirError,
)

MENDABLE = (DataError, ConfigError, WorkdirError, TrainingError, BenchmarkError, OSError)


def run(main, positional=False):
    """Parses the flags, runs main() and exits with its code.

    Args:
        positional: main gets the list of arguments that are no flags; else there may be none.
    """

    def quiet(argv):
        logging.set_verbosity(logging.ERROR)  # Orbax, TFDS and JAX tell their story at INFO
        # What fails in a thread of theirs is raised where it is waited for, and told there.
        logging.get_absl_handler().addFilter(lambda record: record.exc_info is None)
        threading.excepthook = _warn_of_thread
        try:
            if positional:
                return main(argv[1:])
            if argv[1:]:
                raise ConfigError(f'"{argv[1]}" is no flag: flags begin with --')
            return main()
        except MENDABLE as error:
            _exit(error)
        except Exception as error:  # a mistake of ours
            traceback.print_exc()
            _end(EXIT_RESTART if _left(error) else 1)

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
    print(f"\nwarning: a background thread failed: {text}", file=sys.stderr, flush=True)


def _exit(error):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    _end()


def _left(error):
    """Whether another process of the run is gone, whose connections broke within a collective."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError) or jax.process_count() == 1:
        return False
    broken = r"(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED):|.*\b(Gloo|NCCL)\b"
    return re.match(broken, str(error)) is not None


def _end(code=1):
    """At once: TensorFlow's threads, and JAX at its exit for minutes, would wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
