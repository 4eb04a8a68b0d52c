"""Ends a process that makes no progress any more, and says where it stood."""

import faulthandler
import os
import sys
import threading
import time

import jax

from jax_pix2pix.errors import EXIT_RESTART
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.safety import safe_files

TICK_SECONDS = 1.0


class Watchdog:
    """Ends the process with EXIT_RESTART if `alive` is not called for so many seconds.

    Only seconds in which the process could run count: after a SIGSTOP, or a laptop that slept, a
    step still has its time.

    It writes the stacks of all threads to stacks_<process>_<time>.txt in ``workdir``.

    Args:
        seconds: 0 watches nothing.
    """

    def __init__(self, seconds, workdir):
        self._seconds, self._workdir = seconds, workdir
        self._moved = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self):
        self.alive()
        if self._seconds:
            self._thread.start()

    def stop(self):
        self._done.set()

    def alive(self):
        self._moved.set()

    def each(self, items):
        """Yields the items; each counts as a sign of life."""
        for item in items:
            self.alive()
            yield item

    def _watch(self):
        tick, left = min(self._seconds / 10, TICK_SECONDS), self._seconds
        while left > 0:
            before = time.monotonic()
            if self._done.wait(tick):
                return
            # A wait that took far longer than asked for was a pause of the whole process.
            left -= min(time.monotonic() - before, 2 * tick)
            if self._moved.is_set():
                self._moved.clear()
                left = self._seconds
        name = f"stacks_{jax.process_index()}_{time.time_ns()}.txt"
        path = os.path.join(self._workdir, name)
        try:
            with safe_files.writing(path, self._workdir) as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:  # the file system may hang or be full
            path = "stderr"
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        text = (
            f"error: nothing has moved for {self._seconds:g} s (config.watchdog_seconds); where "
            f"each thread stands is in {path}; start the same command again"
        )
        print(f"\n{text}", file=sys.stderr, flush=True)
        logger.error("%s; end, exit code %d", text, EXIT_RESTART)
        os._exit(EXIT_RESTART)
