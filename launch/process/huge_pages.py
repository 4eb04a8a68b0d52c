"""Requests memory in large pages for every command, before anything is allocated.

XLA's CPU backend takes fresh memory in every step, and each page of 4 KiB costs a page fault and an
entry of the address cache (TLB). glibc asks Linux for pages of 2 MiB only if the environment says
so when the process starts.
"""

import itertools
import os
import platform
import sys
from pathlib import Path

TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def request():
    """Starts `python -m launch.*` once more, as the same process, if that gives large pages.

    It does nothing if the kernel gives them unasked or never, or if the user has set the tunable
    (GLIBC_TUNABLES=glibc.malloc.hugetlb=0 keeps small pages).
    """
    tunables = os.environ.get(TUNABLES, "")
    if HUGE_PAGES in tunables or not is_command() or platform.libc_ver()[0] != "glibc":
        return
    if not KERNEL.exists() or "[madvise]" not in KERNEL.read_text(encoding="utf-8"):
        return
    # Ours comes first, because glibc may hide all but the first entry from the process.
    os.environ[TUNABLES] = ":".join(filter(None, [f"{HUGE_PAGES}=1", tunables]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_command(name=""):
    """Whether this process was started as python -m launch.NAME, or of any name."""
    pairs = itertools.pairwise(sys.orig_argv)
    return any(flag == "-m" and module.startswith(f"launch.{name}") for flag, module in pairs)
