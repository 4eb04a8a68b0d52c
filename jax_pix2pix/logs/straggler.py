"""Which process makes the others wait.

All processes end a step together, in its collectives, so none sees from its own clock which was
late. But each sees how long its device had nothing to do because of its host: reading, decoding and
dispatching. A step at one process's own pace takes the common time of a step, minus the longest
wait for a host, plus its own. A device that is slower than the others shows in no host's time.
"""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils

NOTABLE = 1.1  # times the median, above which a line is printed


class HostTime:
    """Seconds in which the device waited for this process's host, since the last `take`."""

    def __init__(self):
        self._seconds, self._steps, self._begun = 0.0, 0, None

    def begin(self):
        """Marks that the host turns to the next step."""
        self._begun = time.monotonic()

    def dispatched(self, idle):
        """idle: whether the device had finished its earlier work when the batch was ready."""
        if self._begun is None:
            return
        if idle:
            self._seconds += time.monotonic() - self._begun
        self._steps, self._begun = self._steps + 1, None

    def take(self):
        """-> (seconds, steps)."""
        taken = self._seconds, self._steps
        self._seconds, self._steps = 0.0, 0
        return taken


def gather(waited, steps, seconds):
    """Compares a step's seconds over all processes, which call this together.

    Args:
        waited: seconds in which the device waited for this host.
        steps: number of steps.
        seconds: of all of these steps, waiting included.

    Returns:
        As `compare`; None if there is only one process, or no step.
    """
    if jax.process_count() == 1 or not steps:
        return None
    mine = np.array([waited / steps, seconds / steps], np.float32)
    waits, wholes = np.asarray(multihost_utils.process_allgather(mine), np.float64).T
    return compare(waits, wholes)


def compare(waits, wholes):
    """Step times at the pace of each process alone.

    Args:
        waits: [processes], seconds a step in which a device waited for its host.
        wholes: [processes], seconds a step, waiting for the slowest included.

    Returns:
        {"slowest_seconds", "median_seconds": of a step, "process": number of the slowest}; an even
        number has the lower median, so that of two processes it is the other one.
    """
    own = np.maximum(wholes - waits.max() + waits, 0.0)
    process = int(np.argmax(own))
    median = np.sort(own)[(len(own) - 1) // 2]
    seconds = {"slowest_seconds": float(own[process]), "median_seconds": float(median)}
    return seconds | {"process": process}


def line(epoch, compared):
    """The line printed for an epoch; None if the slowest is within NOTABLE of the median."""
    slowest, median = compared["slowest_seconds"], compared["median_seconds"]
    if slowest <= NOTABLE * median:
        return None
    return (
        f"epoch {epoch}: process {compared['process']} is the slowest, {slowest:.3f} s a step; the "
        f"median process takes {median:.3f} s"
    )
