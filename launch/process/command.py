"""Runs a command: parses flags, quiets libraries and reports in one line what a user can mend.

Exit code 0 means done, and 1 an error that a restart would repeat. 42 (EXIT_RESTART) means stopped
on request and saved, hung, lost another process of the run, or without an answer from an object
store. A launcher then starts the same command again, as it does after a process killed by a signal.
130 (EXIT_INTERRUPTED) means Ctrl-C.
"""

import os
import re
import sys
import threading
import traceback

from absl import app, flags, logging

from jax_pix2pix.errors import (
    EXIT_INTERRUPTED,
    EXIT_RESTART,
    BenchmarkError,
    ConfigError,
    DataError,
    TrainingError,
    UnreachableError,
    WorkdirError,
)
from jax_pix2pix.logs import messages
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.runs.stores.storage import Unreachable
from jax_pix2pix.safety.paths import with_home
from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.safety.shown import ShownStream, is_plain, shown
from launch.process import config_names, gc_tuning, start_signals

MENDABLE = (DataError, ConfigError, WorkdirError, TrainingError, BenchmarkError, OSError)
LOST_SECONDS = 40  # for which a broken run looks which of its processes gives no sign of life
PASSING = (Unreachable, UnreachableError)

_SHARED = flags.DEFINE_bool(
    "shared",
    False,
    "give what is written the permissions of the umask; otherwise only you may read it, since it "
    "may show patients",
)


def run(main, positional=False):
    """Parses the flags, runs main() and exits with its code.

    Args:
        positional: main gets the list of arguments that are no flags; otherwise none may be given.
    """

    def quiet(argv):
        logging.set_verbosity(logging.ERROR)  # Orbax, TFDS and JAX tell their story at INFO
        # Errors in library threads are raised again where they are awaited.
        logging.get_absl_handler().addFilter(lambda record: record.exc_info is None)
        threading.excepthook = _warn_of_thread
        messages.show_all()
        if not _SHARED.value:
            os.umask(0o077)
        start_signals.imported()
        try:
            if positional:
                code = main(argv[1:])
            elif argv[1:]:
                raise ConfigError(f'"{argv[1]}" is no flag: flags begin with --')
            else:
                code = main()
            logger.info("end, exit code %d", code or 0)
            return code
        except MENDABLE as error:
            _exit(_without_traceback(error), EXIT_RESTART if isinstance(error, PASSING) else 1)
        except KeyboardInterrupt:
            _exit("interrupted", EXIT_INTERRUPTED)
        except Exception as error:
            if _lost(error):
                from launch.process import lost_process  # imports JAX

                which = lost_process.lost(LOST_SECONDS) or "another process of the run"
                _exit(
                    f"{which}, or the way to it, was lost ({error}): start the same command again",
                    EXIT_RESTART,
                )
            logger.exception("end, exit code 1")  # a bug of ours
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            _end(1)

    sys.stdout, sys.stderr = ShownStream(sys.stdout), ShownStream(sys.stderr)
    gc_tuning.leave_imports_alone()
    app.run(quiet, flags_parser=_parse_flags)


def _parse_flags(argv):
    try:
        given = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
        for argument in given:
            _check_plain(argument)
        return flags.FLAGS([argv[0], *config_names.with_paths(map(with_home, given))])
    except ConfigError as error:
        _exit(error)
    except (AttributeError, KeyError) as error:
        # ml_collections raises these for a field that the config lacks. Its AttributeError holds a
        # KeyError, whose text would be quoted once more.
        (reason,) = error.args
        if isinstance(error, KeyError) or isinstance(reason, KeyError):
            field = reason.args[0] if isinstance(reason, KeyError) else reason
            _exit(f"--config.…: the config has no field {field}")
        _exit(f"--config: the file fails with {type(error).__name__}: {error}")
    except (ImportError, NameError) as error:
        _exit(f"--config: the file fails with {type(error).__name__}: {error}")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        _exit(_without_traceback(error))


def _check_plain(argument):
    """Refuses what could become lines of a script, commands of a terminal, or no file's content."""
    if not is_plain(argument):
        name, equals, value = argument.partition("=")
        what = f"{shown(name)}={shown(value)}" if equals else f'"{shown(argument)}"'
        raise ConfigError(
            f"{what}: no flag takes control characters or bytes that are no UTF-8: leave them "
            "out, or rename the file"
        )


def _without_traceback(error):
    """The error in one line, if ml_collections cannot read or run a config file."""
    text = str(error)
    if isinstance(error, OSError) and (path := re.search(r"Attempted \[.*?\]:\s*(.+)", text)):
        return f"--config={path[1]}: there is no such file, or it cannot be read"
    return text.strip().splitlines()[-1] if "Traceback" in text else error


def _warn_of_thread(failed):
    text = shown(redacted(" ".join(str(failed.exc_value).split())))[:300]
    logger.warning("a background thread failed: %s", text)
    print(f"\nwarning: a background thread failed: {text}", file=sys.stderr, flush=True)


def _lost(error):
    """Whether a collective failed because another process of the run is gone."""
    jax = sys.modules.get("jax")  # not every command imports it
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError) or jax.process_count() == 1:
        return False
    broken = r"(UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED):|.*\b(Gloo|NCCL)\b"
    return re.match(broken, str(error)) is not None


def _exit(error, code=1):
    text = shown(redacted(f"error: {' '.join(str(error).split())}"))
    logger.error("%s; end, exit code %d", text, code, exc_info=isinstance(error, Exception))
    print(text, file=sys.stderr)
    _end(code)


def _end(code):
    """Exits at once: TensorFlow's threads would delay it, and JAX's exit by minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
