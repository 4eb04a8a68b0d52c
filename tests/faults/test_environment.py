"""Differences between machines and between users change no bit of a run."""

import locale
import os
import stat
import subprocess
import sys

import pytest

from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow
# Python 3 reads the C locale as UTF-8, unless it is told not to.
ASCII = {
    "variables": {
        "PYTHONHASHSEED": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "TZ": "Pacific/Kiritimati",
    },
    "umask": 0o077,
}
UTF8 = {
    "variables": {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "America/St_Johns"},
    "umask": 0o002,
}


def _arguments(workdir, data_dir):
    fields = {
        "data.batch_size": 12,
        "data.image_size": 32,
        "generator.depth": 3,
        "checkpoint_every_steps": 5,
    }
    return commands.tiny_training(workdir, data_dir, **fields)


def test_the_environments_are_what_they_are_said_to_be():
    def encoding(options):
        command = [sys.executable, "-c", "import locale; print(locale.getpreferredencoding(False))"]
        environment = os.environ | options["variables"]
        return subprocess.check_output(command, env=environment, text=True).strip()

    assert encoding(ASCII) == "ANSI_X3.4-1968" and encoding(UTF8) == "UTF-8"
    assert locale.getpreferredencoding(False) == "UTF-8"


@pytest.mark.long
def test_one_process(sample_data_dir, tmp_path):
    runs.train(_arguments(tmp_path / "plain", sample_data_dir))
    runs.train(_arguments(tmp_path / "other", sample_data_dir), **ASCII)
    runs.assert_equal(tmp_path / "plain", tmp_path / "other")


def test_two_processes_that_differ_from_each_other(sample_data_dir, tmp_path):
    """The sample is prepared anew too: its content and its order must not differ."""
    runs.train(_arguments(tmp_path / "plain", sample_data_dir), 2, devices=2)
    other = _arguments(tmp_path / "other", tmp_path / "data")
    runs.train(other, 2, devices=2, each=[ASCII, UTF8])
    assert stat.S_IMODE((tmp_path / "other" / "config.json").stat().st_mode) == 0o600
    runs.assert_equal(tmp_path / "plain", tmp_path / "other")
