"""What every command does with text that comes from elsewhere: flags, prints and errors."""

import os

import pytest

from tests.commands import error_line, python

PROGRAM = """
import sys
from absl import flags
from jax_pix2pix.errors import DataError
from launch.process import command
flags.DEFINE_string("label", "", "")
flags.DEFINE_list("labels", [], "")
def main():
    print("case a\\x1b[2J\\udcff Müller" + flags.FLAGS.label)
    print("\\r 5%|", file=sys.stderr)
    raise DataError("a\\x1b[2J\\u202eb\\udcff is damaged")
command.run(main)
"""
REFUSED = {
    ("--label=a\nb",): r"error: --label=a\nb: no flag takes control characters",
    ("--label", "a\x1b[2J"): r'error: "a\x1b[2J": no flag takes control characters',
    ("--labels=a,b\x07",): r"error: --labels=a,b\x07: no flag",
    ("a\x7fb",): r'error: "a\x7fb": no flag',
    ("--nothing=\u202e",): r"error: --nothing=\u202e: no flag",
    (b"--label=\xff",): r"error: --label=\xff: no flag takes control characters or bytes that are",
    ("--config=a\n.py",): r"error: --config=a\n.py: no flag",
}


def _ended(*arguments, encoding="utf-8"):
    process = python("-c", PROGRAM, *arguments, variables={"PYTHONIOENCODING": encoding})
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("arguments", REFUSED)
def test_flags_hold_no_control_characters(arguments):
    code, out, err = _ended(*arguments)
    assert (code, out) == (1, "") and REFUSED[arguments] in error_line(err)


def test_a_file_of_flags_holds_none_either(tmp_path):
    (tmp_path / "flags").write_text("--label=a\x1bb\n")
    code, _, err = _ended(f"--flagfile={tmp_path / 'flags'}")
    assert code == 1 and r"error: --label=a\x1bb: no flag" in error_line(err)


def test_what_is_printed_acts_on_no_terminal():
    code, out, err = _ended("--label=~/Müller")
    # The pipe is read as text, in which a return is the end of a line.
    assert (code, out) == (1, f"case a\\x1b[2J\\xff Müller{os.path.expanduser('~')}/Müller\n")
    assert err == "\n 5%|\n" + "error: a\\x1b[2J\\u202eb\\xff is damaged\n"


def test_what_a_terminal_lacks_is_shown_too():
    _, out, _ = _ended(encoding="ascii")
    assert out == "case a\\x1b[2J\\xff M\\xfcller\n"
