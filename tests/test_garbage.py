"""Commands do not look for garbage among what they imported, while they start or later."""

import subprocess
import sys

from tests import commands


def test_what_was_imported_is_left_alone():
    program = (
        "import gc; usual = gc.get_threshold(); from launch import command; command.run("
        "lambda: print(gc.get_freeze_count(), gc.get_stats()[0]['collections'],"
        " usual == gc.get_threshold()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=commands.ROOT, capture_output=True, text=True
    )
    frozen, collections, as_usual = done.stdout.split()
    assert int(frozen) > 20_000
    assert int(collections) < 40  # 65 with Python's threshold
    assert as_usual == "True"
