"""Where the time of a process went."""

import os
import time
from pathlib import Path

# What a run spends its time on. Input: the device waited for it. Step: all else in the loop.
KINDS = ("step", "input", "compile", "evaluation", "checkpoint", "startup")


class Clock:
    """Seconds by kind; each second counts once, so they add up to the time since the beginning.

    Args:
        age: seconds that have already passed, to be booked too.
    """

    def __init__(self, age=0.0):
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._taken = dict(self.seconds)
        self._booked = time.monotonic() - age

    def book(self, kind):
        """Books the time since the last call as this, one of KINDS."""
        now = time.monotonic()
        self.seconds[kind] += now - self._booked
        self._booked = now

    def take(self):
        """What was booked since the last call: {kind: seconds}, without zeros."""
        taken, self._taken = self._taken, dict(self.seconds)
        spent = {kind: round(self.seconds[kind] - taken[kind], 6) for kind in KINDS}
        return {kind: seconds for kind, seconds in spent.items() if seconds}


def process_age():
    """Seconds since this process was started, imports included; 0 if there is no /proc."""
    try:
        after_name = Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), since boot
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
