"""Every command in the READMEs of launch/ is one that launch.submit takes."""

import re
import shlex

import pytest

from tests.commands import ROOT
from tests.launch.forked import submit

READMES = sorted((ROOT / "launch").rglob("README.md"))


def commands(text):
    """The lines of all code blocks, continued ones as one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def printed():
    """{arguments of launch.submit as they stand in a README: what --dry_run printed}."""
    lines = [line for path in READMES for line in commands(path.read_text(encoding="utf-8"))]
    calls = [
        re.split(r" (?:>|\||&&) ", line)[0].removeprefix("python -m launch.submit ")
        for line in lines
        if line.startswith("python -m launch.submit ")
    ]
    assert len(calls) >= 4
    return dict(
        zip(calls, submit([[*shlex.split(call), "--dry_run"] for call in calls]), strict=True)
    )


def test_they_print_a_file(printed):
    for call, (code, out, err) in printed.items():
        assert (code, err) == (0, ""), call
        assert "launch.train" in out


def test_other_commands_are_known(printed):
    """Of a platform's own client, which take what was printed."""
    for path in READMES:
        for line in commands(path.read_text(encoding="utf-8")):
            assert line.split()[0] in KNOWN, f"{path}: {line}"


KNOWN = ("python", "bash", "sbatch", "mkdir", "docker", "enroot", "apptainer")
