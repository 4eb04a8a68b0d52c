"""Freed memory goes back to the system."""

import platform
from pathlib import Path

import pytest

from jax_pix2pix.memory import release_freed


def _resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone keeps it")
def test_freed_memory_goes_back():
    release_freed()
    blocks = [bytes(5000) for _ in range(40_000)]  # 200 MB in pieces, which free keeps
    last = blocks.pop()  # at the top of the heap, above all that is freed
    del blocks
    before = _resident_megabytes()
    release_freed()
    assert before - _resident_megabytes() > 150
    assert last
