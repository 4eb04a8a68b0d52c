"""How much memory this process may still take. No TensorFlow."""

import os
from pathlib import Path

from jax_pix2pix.errors import DataError

SHARE = 0.5  # of the available memory, for a cache: the rest is for training and other processes
CGROUP = Path("/sys/fs/cgroup")


def available_bytes():
    """Bytes available without swapping: the machine's, or the container's if that is less.

    The kernel's cache of files counts as available, as it does in /proc/meminfo.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        (kilobytes,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        available = int(kilobytes) * 1024
    except (OSError, ValueError):  # not Linux
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(map(str.split, (CGROUP / "memory.stat").read_text().splitlines()))
        if limit != "max":
            available = min(available, int(limit) - used + int(statistics["inactive_file"]))
    except OSError:  # no container, or one without a limit
        pass
    return available


def check_fits(needed):
    """Checks that a cache of `needed` bytes fits into memory.

    Raises:
        DataError: it needs more than SHARE of the available memory.
    """
    available = available_bytes()
    if needed > SHARE * available:
        raise DataError(
            f"config.data.cache needs {needed / 1e9:.2f} GB of host memory, above {SHARE:.0%} of "
            f'the {available / 1e9:.2f} GB available: use "none", which streams'
        )
