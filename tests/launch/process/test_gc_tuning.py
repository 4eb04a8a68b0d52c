"""Commands do not search what they imported for garbage, at their start or later."""

import os
import subprocess
import sys

import pytest

from tests import commands


@pytest.mark.parametrize(
    "run",
    [
        "from launch.process import command; command.run(found)",
        "from launch.benchmark import processes; processes.serve({'found': found})",
    ],
)
def test_what_was_imported_is_left_alone(run):
    program = f"""
import gc, sys
sys.orig_argv = ["python", "-m", "launch.command"]  # a notebook's settings are left alone
usual = gc.get_threshold()
def found():
    frozen, collections = gc.get_freeze_count(), gc.get_stats()[0]["collections"]
    print(frozen, collections, usual == gc.get_threshold(), file=sys.stderr)
{run}
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input='{"name": "found", "arguments": {}}\n',
        cwd=commands.ROOT,
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},  # no second start
        capture_output=True,
        text=True,
    )
    frozen, collections, as_usual = done.stderr.split()
    assert int(frozen) > 10_000
    assert int(collections) < 40  # 65 with Python's threshold
    assert as_usual == "True"
