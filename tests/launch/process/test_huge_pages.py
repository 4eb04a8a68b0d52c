"""Commands run with large pages, and leave other processes unchanged."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.process import huge_pages
from tests import commands

pytestmark = pytest.mark.skipif(
    not huge_pages.KERNEL.exists() or "[madvise]" not in huge_pages.KERNEL.read_text(),
    reason="the kernel gives large pages to all processes, or to none",
)


def _environment(process):
    """The environment that the process was last started with."""
    try:
        words = Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
    except ProcessLookupError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=4", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_commands_ask_for_large_pages(tmp_path, given, expected):
    variables = {"GLIBC_TUNABLES": given}
    process = commands.start("launch.evaluate", f"--workdir={tmp_path}", variables=variables)
    seen = set()
    while process.poll() is None:
        seen.update(_environment(process).get("GLIBC_TUNABLES", "").split(":"))
        time.sleep(0.01)
    _, err = commands.finish(process, code=1)
    assert "config.json does not exist" in commands.error_line(err)  # arguments and code survive
    assert expected in seen


def test_other_programs_are_not_started_again():
    program = "import os; import launch.process.command; print(os.environ)"
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    out = subprocess.run(
        [sys.executable, "-c", program],
        cwd=commands.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert huge_pages.HUGE_PAGES not in out.stdout
