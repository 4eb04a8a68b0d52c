"""Speed, CPU time and memory of an iterator of batches. Standard library only; Linux only."""

import re
import resource
import time
from pathlib import Path

FAR = 10**6  # a step to resume at
WARM_UP = 3  # batches


def measure(batches_from, steps, seconds, batch_size, workers=0):
    """Times the start at each of `steps`, then reads on from the last one for `seconds`.

    Args:
        batches_from: step -> iterator of batches.
        workers: number of processes that the iterator starts, and ends when it is deleted.

    Returns:
        {"pairs_per_second"; "pairs_per_cpu_second": of all threads and workers; "startup_seconds":
        {step: seconds until the first batch}; "peak_mb": of this process, plus workers times the
        largest worker, which counts shared memory once for each}.
    """
    startup = {}
    batches = batches_from(steps[0])  # traces and opens what later starts reuse
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
    # A worker's CPU time appears when it ends and is of all its batches: take the timed share.
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
    # Not ru_maxrss, which begins with the value of the parent process.
    kilobytes = re.search(
        r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
    )
    return int(kilobytes[1]) / 1024 if kilobytes else float("nan")


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
