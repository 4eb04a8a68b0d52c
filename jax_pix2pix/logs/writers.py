"""Writers show a run's metrics while it trains: one protocol, TensorBoard, and a thread for others.

`trackers.py` has Weights & Biases and MLflow.
"""

import errno
import os
import queue
import sys
import threading
from typing import Protocol

import numpy as np
import tqdm

from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.safety.shown import shown

WAITING = 10_000  # calls that a writer in a thread may be behind
CLOSE_SECONDS = 60.0  # that the end of a run waits for a writer


class Writer(Protocol):
    """Receives one run's metrics on process 0. Steps never decrease within a split."""

    def config(self, values):
        """values: {dotted name of a field: value}; called before anything else."""
        ...

    def scalars(self, step, split, values):
        """values: {name: float} of a step; split is "train", "validation" and so on."""
        ...

    def image(self, step, name, image):
        """image: uint8 [h, w, 3]."""
        ...

    def close(self, finished):
        """finished: whether the run reached its last step."""
        ...


class TensorBoard:
    """Event files in ``directory``, which continue after ``start_step``.

    Raises:
        OSError: from any method, if an earlier call could not be written.
    """

    def __init__(self, directory, start_step):
        import tensorboardX  # not above: commands that do not write for it import this too

        self._start_step = start_step
        self._board = tensorboardX.SummaryWriter(
            directory,
            max_queue=0,  # no limit, at which a full disk would block the run for ever
            purge_step=start_step + 1,
        )

    def config(self, values):
        lines = "\n".join(f"    {shown(name)} = {value!r}" for name, value in values.items())
        self._board.add_text("config", lines, self._start_step)

    def scalars(self, step, split, values):
        self._check()
        for key, value in values.items():
            self._board.add_scalar(f"{split}/{key}", value, step)

    def image(self, step, name, image):
        self._check()
        self._board.add_image(name, np.asarray(image), step, dataformats="HWC")
        self._board.flush()

    def close(self, finished):
        del finished
        self._board.close()

    def _check(self):
        """Raises OSError if the files could not be written, which only ends the board's thread."""
        if not self._board.file_writer.event_writer._worker.is_alive():
            self._board.flush()  # raises what ended the thread, if it persists
            raise OSError(errno.EIO, os.strerror(errno.EIO))


class InBackground:
    """A writer in a thread of its own: training neither waits for it nor ends with it.

    If it raises or falls behind, there is one line of warning, and it gets nothing more.

    Args:
        name: for the warning.
        open_writer: () -> Writer, called in the thread.
    """

    def __init__(self, name, open_writer):
        self._name, self._open = name, open_writer
        self._calls = queue.Queue(WAITING)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def config(self, values):
        self._call("config", values)

    def scalars(self, step, split, values):
        self._call("scalars", step, split, values)

    def image(self, step, name, image):
        self._call("image", step, name, image)

    def close(self, finished):
        self._call("close", finished)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it is not done {CLOSE_SECONDS:g} s after the last step")

    def _call(self, method, *arguments):
        if self._failed.is_set():
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._fail(f"it is {WAITING} lines behind")

    def _work(self):
        try:
            writer = self._open()
            method = None
            while method != "close" and not self._failed.is_set():
                method, arguments = self._calls.get()
                getattr(writer, method)(*arguments)
        except Exception as error:  # of a server, a network or another package
            logger.warning("%s failed", self._name, exc_info=True)
            reason = redacted(" ".join(str(error).split()))[:300]
            self._fail(f"{type(error).__name__}: {reason}")

    def _fail(self, reason):
        if self._failed.is_set():
            return
        self._failed.set()
        text = f"{self._name} gets nothing more of this run ({shown(reason)}); training goes on"
        logger.warning(text)
        tqdm.tqdm.write(f"warning: {text}", file=sys.stderr)  # above a progress bar
