"""Text in the files of launch.submit reaches the program as it is, and is never run."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from jax_pix2pix.errors import ConfigError
from launch import submit  # noqa: F401, for its flags
from launch.cluster import platforms
from launch.cluster.accelerators import accelerator
from tests.launch.cluster import manifests

TEXTS = [
    "$(touch run)", "`touch run`", "'; touch run; '", '"; touch run; "', "${HOME} $HOME $$", "a b",
    "ümläut 中 \U0001f600 \u00a0", "on", "null", "~", "1e3", "0x1f", "#a", "a #b", "-x", "--help",
    "{{ name }} {% raw %} {# a", "END_OF_STARTUP", "END_OF_TRAIN", "a: b", "- a", "*a", "&a",
    "!a", "%j %a", "\\", "\\n", ">a", "|", "$(JAX_PLATFORMS)", "x" * 5000,
]  # fmt: skip
BY_FLAG = (
    *("image", "project", "zone", "cluster", "namespace", "queue", "priority", "repository"),
    *("revision", "service_account", "secret", "time", "partition", "account", "mem"),
)
ACCELERATORS = {"Cpus": "cpu:2", "Gpus": "h100:8", "TpuSlice": "v5e-16"}
TEMPLATES = {
    template: ACCELERATORS[kind.__name__]
    for platform in platforms.PLATFORMS.values()
    for kind, template in platform.template.items()
}


def _render(template, text, **changed):
    """The file with `text` wherever a template reads text."""
    given = dict.fromkeys(BY_FLAG, text) | dict.fromkeys(
        ("directory", "logs", "workdir", "python"), text
    )
    return platforms.render(
        template,
        given
        | {"name": "run-a", "device": accelerator(TEMPLATES[template]), "nodes": 1, "port": 1}
        | {"restarts": 0, "slices": 1, "spot": True, "container": "pyxis", "process_per": "gpu"}
        | {"cpus_per_task": 1, "arguments": [text], "folders": [text]}
        | {"volume": {"claim": text, "path": text}}
        | changed,
    )


RECORD = """#!{python}
import json, os, shutil, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
print(json.dumps(words), file=open({log!r}, "a"))
for word in words:
    if word.startswith("--metadata-from-file="):
        shutil.copy(word.partition("startup-script=")[2].partition(",")[0], {start!r})
if words[1:4] == ["clone", "--quiet", "--"]:
    os.makedirs(words[5])
if words[0] == "python3":
    os.makedirs("uv/bin")
    shutil.copy(shutil.which("uv"), "uv/bin/uv")
sys.exit(1 if "describe" in words else 0)
"""
PROGRAMS = ("srun", "xpk", "gcloud", "git", "python3", "uv", "systemctl", "squeue", "scontrol")


def _run(script, folder):
    """Runs a script with stand-ins for programs. -> their calls."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    for name in PROGRAMS:
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        start = str(folder / "start")
        program.write_text(RECORD.format(python=sys.executable, log=str(log), start=start))
        program.chmod(0o755)
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}
    result = subprocess.run(
        ["bash", "-c", script, "script", str(inside)],
        env=environment, cwd=inside, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not list(folder.rglob("run")), script
    assert log.exists(), result.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def _sbatch_words(line):
    """The words of an #SBATCH line as sbatch reads them: its own rules, not a shell's."""
    words, word, quote, escaped = [], None, "", False
    for c in [*line.removeprefix("#SBATCH"), " "]:
        if escaped:
            word, escaped = word + c, False
        elif c == "\\":
            word, escaped = word or "", True
        elif c == quote:
            quote = ""
        elif not quote and c in "'\"":
            word, quote = word or "", c
        elif not quote and c.isspace():
            words += [word] if word is not None else []
            word = None
        elif word is None and c == "#":
            break
        else:
            word = (word or "") + c
    return words


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name.endswith(".yaml")])
def test_yaml_has_the_text(template):
    for text in TEXTS:
        (*_, item) = yaml.safe_load_all(_render(template, text))
        if template.startswith("sky"):
            assert item["name"] == "run-a" and item["workdir"] == text
            line = next(line for line in item["run"].splitlines() if "launch.train" in line)
            assert shlex.split(line)[3:-1] == [text]
            continue
        pod = manifests.job(item)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert [manifests.expanded(word) for word in container["args"]] == [text]
        assert [container["image"], pod["priorityClassName"]] == [text] * 2
        assert item["metadata"]["namespace"] == pod["serviceAccountName"] == text


@pytest.mark.parametrize("name", ["on", "no", "null", "run-1e3", "true"])
def test_names_stay_text(name):
    for template in TEMPLATES:
        if template.endswith(".yaml"):
            for item in yaml.safe_load_all(_render(template, "a", name=name)):
                assert item.get("metadata", item)["name"] == name


def test_sbatch_lines_have_the_text():
    for text in TEXTS:
        lines = _render("slurm/train.sbatch", text).splitlines()
        words = [_sbatch_words(line) for line in lines if line.startswith("#SBATCH")]
        assert all(len(of_line) == 1 for of_line in words)
        found = dict(word.split("=", 1) for (word,) in words if "=" in word)
        wanted = ("--mem", "--time", "--partition", "--account", "--chdir")
        assert [found[name] for name in wanted] == [text] * len(wanted)
        assert found["--output"] == text.replace("%", "%%") + "/slurm-%j.log"


@pytest.mark.slow
@pytest.mark.parametrize("template", [name for name in TEMPLATES if not name.endswith(".yaml")])
def test_shells_pass_the_text_on(template, tmp_path):
    for number, text in enumerate(["END_OF_STARTUP", "-x", " ".join(TEXTS)]):
        folder = tmp_path / str(number)
        changed = {"logs": str(folder / text[:50]), "folders": [str(tmp_path)]}
        if template.startswith("local"):
            changed |= {"directory": str(tmp_path), "python": str(folder / "bin/uv")}
        script = _render(template, text, **changed)
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        calls = _run(script, folder)
        if template.startswith("local"):
            ((_, _, _, word, *_),) = calls
            assert word == text
        elif template.startswith("slurm"):
            call = next(call for call in calls if call[0] == "srun")
            assert call[-1] == text and f"--container-image={text}" in call
        elif template == "gke/xpk.sh":
            ((*_, command),) = calls
            words = shlex.split(manifests.expanded(command.removeprefix("--command=")))
            assert words == ["exec", "python", "-m", "launch.train", text]
            assert f"--cluster={text}" in calls[0] and f"--docker-image={text}" in calls[0]
        else:
            assert f"--zone={text}" in calls[0] and f"--project={text}" in calls[0]
            started = _run((folder / "start").read_text(), folder)[len(calls) :]
            assert ["git", "clone", "--quiet", "--", text, "code"] in started
            assert next(c for c in started if "checkout" in c)[-2:] == [text, "--"]
            line = next(
                line for line in (folder / "inside/train.sh").read_text().splitlines()
                if "launch.train" in line
            )  # fmt: skip
            assert shlex.split(line)[3:-1] == [text]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1bb", "a\u2028b", "a\x85b", "a\udcffb"])
def test_what_could_end_a_line_is_refused(text):
    """A folder's name, as that of the current one, is no flag."""
    for template in TEMPLATES:
        with pytest.raises(ConfigError, match="has control characters or is no UTF-8"):
            _render(template, "a", directory=text)


def test_every_text_flag_of_a_platform_has_a_form():
    from absl import flags

    options = {option for platform in platforms.PLATFORMS.values() for option in platform.options}
    texts = {name for name in options if flags.FLAGS[name].flag_type() == "string"}
    assert texts - {"container", "process_per"} == set(platforms.FORMS)
    for name, (form, _) in platforms.FORMS.items():
        for text in ("-x", " ", "\n", "$(a)"):
            if name != "image" or text != "$(a)":
                assert not re.fullmatch(form, text, re.ASCII), name
