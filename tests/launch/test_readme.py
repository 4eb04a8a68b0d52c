"""launch.submit or the named program accepts every command in the READMEs of launch/."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from launch.cluster.platforms import PLATFORMS
from tests.commands import ROOT, submit

READMES = sorted((ROOT / "launch").rglob("README.md"))
BLOCK = re.compile(r"^```\w*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# Programs that are no part of the project. Those below check their lines themselves.
OTHERS = {
    "apptainer",
    "bash",
    "enroot",
    "mkdir",
    "kill",
    "mpirun",
    "pip",
    "python",
    "sbatch",
    "scancel",
    "sky",
    "ulimit",
    "xpk",
}
PARSERS = {"docker", "gcloud", "kubectl"}


def commands(text):
    """The lines of all code blocks, with continuation lines joined."""
    lines = "".join(BLOCK.findall(text)).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def inline(text):
    """Inline code of several words that begins like a command."""
    found = [" ".join(code.split()) for code in re.findall("`([^`]+)`", BLOCK.sub("", text))]
    return [code for code in found if re.match(r"[a-z][\w./-]* ", code)]


def every():
    """(README, words of a command), without commands that an ellipsis leaves open."""
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        for line in commands(text) + inline(text):
            line = re.sub(r" > \S+", "", line)
            for part in re.findall(r"\$\((.*?)\)", line) or re.split(r" (?:\||&&) ", line):
                if "…" not in part:
                    yield path, shlex.split(part)


@pytest.fixture(scope="module")
def printed():
    """{arguments of launch.submit as in a README: output of --dry_run}."""
    lines = [line for path in READMES for line in commands(path.read_text(encoding="utf-8"))]
    calls = [
        re.split(r" (?:>|\||&&) ", line)[0].removeprefix("python -m launch.submit ")
        for line in lines
        if line.startswith("python -m launch.submit ")
    ]
    assert len(calls) >= 4
    # --dry_run is no flag of launch.train, whose flags follow a --.
    return dict(
        zip(calls, submit([["--dry_run", *shlex.split(call)] for call in calls]), strict=True)
    )


@pytest.mark.slow
def test_they_print_a_file(printed):
    for call, (code, out, err) in printed.items():
        assert (code, err) == (0, ""), call
        assert "launch.train" in out


def test_other_commands_are_known(tmp_path):
    """The platforms, modules, files and scripts that they name exist."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text("#!/bin/bash\n")
    gcloud.chmod(0o755)
    seen = set()
    for path, (program, *arguments) in every():
        where = f"{path}: {program} {arguments}"
        seen.add(program)
        if program == "launch.submit":
            assert arguments[0] in PLATFORMS, where
        elif program.endswith(".sh"):
            (script,) = {*ROOT.glob(program), *path.parent.glob(program)}
            environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
            subprocess.run([script, *arguments], env=environment, check=True)
        else:
            assert program in OTHERS | PARSERS, where
        for module in re.findall(r"\blaunch\.[a-z]\w+", " ".join(arguments)):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), where
        if program == "docker" and arguments[:1] == ["build"] and arguments[1:]:
            assert arguments[-1] == "." and (ROOT / arguments[arguments.index("-f") + 1]).is_file()
    assert {"launch/cluster/tpu_vm/logs.sh", "docker", "kubectl", "gcloud", "sky"} <= seen


@pytest.mark.parametrize("program", sorted(PARSERS))
def test_programs_understand_their_commands(program, tmp_path):
    """They read flags before they look for an account, a cluster or a daemon, which are absent."""
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    nobody = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": os.devnull,
        "DOCKER_HOST": f"unix://{tmp_path}/none",
        "CLOUDSDK_CONFIG": str(tmp_path / "config"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
    }

    def misunderstood(words):
        result = subprocess.run(
            words, env=nobody, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        wrong = "unknown (shorthand )?(flag|command)|unrecognized arguments|Invalid choice"
        return re.search(wrong, result.stderr) and result.stderr

    lines = [words for _, words in every() if words[0] == program and len(words) > 2]
    assert lines
    for words in lines:
        assert not misunderstood(words), words
    assert misunderstood([*lines[0], "--no-such-flag"])
