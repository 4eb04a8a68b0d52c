"""The SkyPilot task as SkyPilot reads it, and what it runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv

import pytest
import yaml

from tests.commands import ROOT, error_line, submit
from tests.faults import runs
from tests.launch import test_readme as readme

READ = """
import json, sys, types, sky
from sky.jobs.recovery_strategy import StrategyExecutor

task = sky.Task.from_yaml(sys.argv[1])
(resources,) = task.resources
recovery = types.SimpleNamespace(restart_cnt_on_failure=0, **resources.job_recovery)

def starts_again(*exit_codes):
    return StrategyExecutor.should_restart_on_failure(recovery, list(exit_codes))

print(json.dumps({
    "nodes": task.num_nodes, "name": task.name, "spot": resources.use_spot,
    "accelerators": resources.accelerators, "arguments": resources.accelerator_args,
    "starts_again": [starts_again(*codes) for codes in ((42,), (42, 137), (1, 137), (1,))],
}))
"""


@pytest.mark.slow
def test_what_nodes_would_miss_is_refused(tmp_path):
    """A folder outside the project, configs outside it, and GPUs without a kind."""
    config = "configs/lidc_mask2ct.py"
    outside = tmp_path / "outside.py"
    shutil.copy(ROOT / config, outside)
    relative = os.path.relpath(outside, ROOT)
    messages = {
        (f"--config={ROOT / config}", "--accelerator=h100:8"): f"{ROOT / config}: use a path relat",
        (
            f"--config={relative}",
            "--accelerator=h100:8",
        ): f"--config={relative}: use a path relative",
        (
            f"--config={config}",
            "--accelerator=gpu:8",
        ): "gpu:8: SkyPilot has to know the kind, h100:8",
        (
            f"--config={config}",
            "--accelerator=v5e-16",
            "--slices=2",
        ): "--slices: sky has no such flag: SkyPilot asks for one slice; use tpu_vm, gke or xpk",
    }
    sky = ("--workdir=gs://bucket/a", "--config.data.data_dir=gs://bucket/d", "--dry_run")
    results = submit([("sky", *given, *sky) for given in messages])
    away = ("sky", f"--config={outside}", "--accelerator=h100:8", *sky)
    elsewhere = submit([away], folder=tmp_path)
    wanted = [*messages.values(), f"error: {tmp_path} is not the project's root, which sky copies"]
    for (code, out, err), message in zip(results + elsewhere, wanted, strict=True):
        assert (code, out) == (1, "") and message in error_line(err)


UNDERSTAND = """
import json, sys
from click import UsageError
from sky.client.cli.command import cli

def understands(words):
    try:  # it prints its help in place of doing it, once it has read all flags
        cli.main([*words, "--help"], standalone_mode=False)
    except UsageError as error:
        return error.format_message()

print(json.dumps([understands(words) for words in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="session")
def in_sky(tmp_path_factory):
    """Runs Python with SkyPilot in an environment of its own. -> its result."""
    folder = tmp_path_factory.mktemp("sky")
    venv.create(folder / "venv", with_pip=True)
    requirements = ROOT / "tests/launch/cluster/requirements-sky.txt"
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)

    def python_with_sky(*arguments):
        variables = {"HOME": str(folder), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        command = [python, "-c", *arguments]
        return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)

    return python_with_sky


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "spot", "accelerators", "arguments"),
    [
        ("sky-Gpus-0.yaml", False, {"H100": 8}, None),
        ("sky-Gpus-1.yaml", True, {"H100": 8}, None),
        (
            "sky-TpuSlice-1.yaml",
            True,
            {"tpu-v5litepod-16": 1},
            {"runtime_version": "v2-alpha-tpuv5-lite"},
        ),
    ],
)
def test_skypilot_reads_the_task(rendered, in_sky, file, spot, accelerators, arguments):
    result = in_sky(READ, rendered / file)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "nodes": 1,
        "name": "it-s-a-run",
        "spot": spot,
        "accelerators": accelerators,
        "arguments": arguments,
        "starts_again": [True, True, False, False],  # 137: SkyPilot itself ended it
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("field", ["num_nodes", "use_spot"])
def test_skypilot_refuses_a_misspelt_field(rendered, in_sky, tmp_path, field):
    text = (rendered / "sky-Gpus-1.yaml").read_text()
    assert field in text
    (tmp_path / "typo.yaml").write_text(text.replace(field, field[:-1]))
    result = in_sky(READ, tmp_path / "typo.yaml")
    assert result.returncode
    assert re.search(rf"did you mean '{field}'|'{field[:-1]}'", result.stderr), result.stderr


@pytest.mark.slow
@pytest.mark.long
def test_skypilot_understands_the_commands_of_the_readme(in_sky):
    lines = [words for _, (program, *words) in readme.every() if program == "sky"]
    assert {"jobs", "check"} <= {words[0] for words in lines}
    result = in_sky(UNDERSTAND, json.dumps([*lines, ["jobs", "launch", "--restarts=3"]]))
    assert result.returncode == 0, result.stderr
    *understood, wrong = json.loads(result.stdout.splitlines()[-1])
    assert understood == [None] * len(lines) and "--restarts" in wrong


def _node(rendered, folder, accelerator, code):
    """Starts what a node runs, with a Python that records its call and runs `code`. -> Popen"""
    python = folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/bash\n{sys.executable} -c "import json, os, sys; print(json.dumps([sys.argv[1:], '
        f'dict(os.environ)]), file=open({str(folder / "seen")!r}, \'a\'))" "$@"\n{code}\n'
    )
    python.chmod(0o755)
    task = yaml.safe_load((rendered / f"sky-{accelerator}-1.yaml").read_text())
    given = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3",
        "SKYPILOT_NUM_NODES": "3",
        "SKYPILOT_NODE_RANK": "2",
        "BASH_FUNC_sleep%%": "() { :; }",
    }
    return subprocess.Popen(["bash", "-c", task["run"]], env=given)


def _starts(folder):
    return [json.loads(line) for line in (folder / "seen").read_text().splitlines()]


@pytest.mark.parametrize(
    ("code", "starts", "ended"),
    [("exit 0", 1, 0), ("exit 1", 1, 1), ("exit 42", 4, 1), ("kill -9 $$", 4, 1)],
)
@pytest.mark.parametrize("accelerator", ["Gpus", "TpuSlice"])
def test_a_node_runs_one_process_of_the_run(rendered, tmp_path, accelerator, code, starts, ended):
    """It is started up to --restarts=3 times again. SkyPilot restarts none of these exit codes."""
    assert _node(rendered, tmp_path, accelerator, code).wait(timeout=60) == ended
    seen = _starts(tmp_path)
    assert len(seen) == starts
    arguments, variables = seen[0]
    assert arguments == [
        "-m",
        "launch.train",
        "--config=configs/lidc_mask2ct.py",
        '--workdir=gs://bucket/it\'s "a run"',
        "--submission=again",
    ]
    processes = {name: value for name, value in variables.items() if name.startswith("JAX_")}
    assert (
        processes
        == {  # on TPUs JAX asks the machine
            "Gpus": {
                "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8482",
                "JAX_NUM_PROCESSES": "3",
                "JAX_PROCESS_ID": "2",
                "JAX_PLATFORMS": "cuda",
            },
            "TpuSlice": {"JAX_PLATFORMS": "tpu"},
        }[accelerator]
    )


def test_a_node_that_is_told_to_stop_ends_with_what_skypilot_starts_again(rendered, tmp_path):
    """SkyPilot starts it on another machine, as this one may be gone soon."""
    code = 'trap "exit 42" TERM; touch "$HOME/ready"; while :; do /bin/sleep 0.1; done'
    node = _node(rendered, tmp_path, "Gpus", code)
    runs.wait_for((tmp_path / "ready").exists, [node])
    node.terminate()
    assert node.wait(timeout=60) == 42
    assert len(_starts(tmp_path)) == 1
