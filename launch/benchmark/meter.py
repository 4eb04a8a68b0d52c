"""Speed, processor time and memory of an iterator of batches. Standard library only; Linux."""

import re
import resource
import time
from pathlib import Path

FAR = 10**6  # a step to resume at
WARM_UP = 3  # batches


def measure(batches_from, steps, seconds, batch_size, workers=0):
    """Starts at each of `steps`, then goes on from the last one for so many seconds.

    Args:
        batches_from: step -> iterator of batches.
        workers: processes that the iterator starts, and ends when it is deleted.

    Returns:
        {"pairs_per_second"; "pairs_per_cpu_second", of all threads and workers; "startup_seconds",
        {step: until the first batch}; "peak_mb", of this process, and workers times their largest,
        which counts what they share once for each}.
    """
    startup = {}
    batches = batches_from(steps[0])  # traces and opens what later starts find
    next(batches)
    for step in steps:
        del batches
        children = _children_seconds()
        start = time.perf_counter()
        batches = batches_from(step)
        next(batches)
        startup[step] = time.perf_counter() - start
    for _ in range(WARM_UP):
        next(batches)
    count = 0
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < start + seconds:
        next(batches)
        count += batch_size
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    del batches
    # Workers are counted when they end: from their start on, which the batches then made up for.
    cpu += (_children_seconds() - children) * count / (count + (1 + WARM_UP) * batch_size)
    return {
        "pairs_per_second": count / wall,
        "pairs_per_cpu_second": count / cpu,
        "startup_seconds": startup,
        "peak_mb": peak_mb()
        + workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def peak_mb():
    """The most memory that this process has held so far."""
    # Not ru_maxrss, which begins with that of the process that started this one.
    kilobytes = re.search(
        r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
    )
    return int(kilobytes[1]) / 1024 if kilobytes else float("nan")


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
