"""ShellCheck accepts every script that the platforms get."""

import re
import subprocess

from tests.commands import ROOT


def _finished(scripts):
    """The scripts of launch/ that are no templates."""
    return [path for path in scripts if not re.search("{[{%]", path.read_text(encoding="utf-8"))]


def test_scripts_are_sound(rendered):
    scripts = [*rendered.glob("*.sh"), *rendered.glob("*.sbatch")]
    assert len(scripts) > 10
    scripts += _finished((ROOT / "launch").rglob("*.sh"))
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_platform_is_rendered(rendered):
    names = {path.name.split("-")[0] for path in rendered.iterdir()}
    assert {"local", "slurm", "tpu_vm", "sky"} <= names
