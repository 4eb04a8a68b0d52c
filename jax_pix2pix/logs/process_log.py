"""Logs what happens to each process of a run in the workdir: lines with time and rank.

It also has what the terminal does not show: warnings of JAX and Orbax, and whole tracebacks.
"""

import contextlib
import logging
import os
import socket
import time

from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.safety.shown import shown, shown_lines

logger = logging.getLogger("jax_pix2pix")
logger.addHandler(logging.NullHandler())  # until `start`
logger.propagate = False  # the terminal has its own lines


class _File(logging.Handler):
    """Appends each record to a file at once; a failed write must not end a run."""

    def __init__(self, workdir, path):
        super().__init__()
        self._workdir, self._path = workdir, path

    def emit(self, record):
        text = shown_lines(redacted(self.format(record)))
        with contextlib.suppress(OSError):
            os.stat(os.path.dirname(self._path))  # a workdir that was removed is not made again
            with safe_files.open_to_append(self._path, self._workdir) as file:
                file.write(text + "\n")


class _OneLine(logging.Formatter):
    """Keeps a record's message on one line, as nothing in it may pass for another record."""

    def formatMessage(self, record):
        record.message = shown(record.message)
        return super().formatMessage(record)


def log_path(workdir, process):
    return os.path.join(workdir, "logs", f"process_{process:04d}.log")


def start(workdir, coordinator):
    """Begins, or continues, this process's log in ``workdir``.

    Args:
        coordinator: the address of process 0, for the first line.
    """
    import jax  # not above: commands without JAX import this module

    path = log_path(workdir, jax.process_index())
    with contextlib.suppress(OSError):  # a full or read-only disk: a later write names it
        safe_files.make_folder(os.path.dirname(path), workdir)
    for handler in (*logger.handlers, *logging.root.handlers):
        if isinstance(handler, _File):
            logger.removeHandler(handler)
            logging.root.removeHandler(handler)
    file = _File(workdir, path)
    rank = f"[{jax.process_index()}/{jax.process_count()}]"
    formatter = _OneLine(f"%(asctime)s.%(msecs)03dZ {rank} %(levelname)s %(message)s")
    formatter.datefmt, formatter.converter = "%Y-%m-%dT%H:%M:%S", time.gmtime
    file.setFormatter(formatter)
    # Other packages' warnings go into the file; the terminal shows no more of them than before.
    for handler in logging.root.handlers:
        handler.setLevel(max(handler.level, logging.root.level))
    logging.root.setLevel(min(logging.root.level, logging.WARNING))
    logging.root.addHandler(file)
    logger.addHandler(file)
    logger.setLevel(logging.INFO)
    devices = jax.local_devices()
    logger.info(
        "start on %s, pid %d, %d of %d devices (%s), coordinator %s",
        socket.gethostname(), os.getpid(), len(devices), jax.device_count(),
        devices[0].device_kind, coordinator,
    )  # fmt: skip
