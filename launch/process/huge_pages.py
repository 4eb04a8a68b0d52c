"""Memory in large pages for every command, asked for before anything is allocated.

XLA's CPU backend takes fresh memory in every step, and pages of 4 KiB cost a fault and an entry of
the address cache each. glibc asks Linux for pages of 2 MiB if the environment says so when a
process starts, and not later.
"""

import itertools
import os
import platform
import sys
from pathlib import Path

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def request():
    """Starts `python -m launch.*` once more, as the same process, where that gives large pages.

    Nothing happens where the kernel gives them unasked or never, or the user has set the tunable
    (GLIBC_TUNABLES=glibc.malloc.hugetlb=0 keeps small pages).
    """
    tunables = os.environ.get(TUNABLES, "")
    if HUGE_PAGES in tunables or not _is_command() or platform.libc_ver()[0] != "glibc":
        return
    if not KERNEL.exists() or "[madvise]" not in KERNEL.read_text(encoding="utf-8"):
        return
    # First, because glibc may cut what the process sees of this variable after its first entry.
    os.environ[TUNABLES] = ":".join(filter(None, [f"{HUGE_PAGES}=1", tunables]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_command():
    pairs = itertools.pairwise(sys.orig_argv)
    return any(flag == "-m" and module.startswith("launch.") for flag, module in pairs)
