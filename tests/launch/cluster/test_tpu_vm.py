"""The scripts of a TPU VM's worker, with a stand-in for systemd; gcloud checks calls to it."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, error_line, run
from tests.launch.cluster import rendered as files

CREATE = [
    "tpu_vm",
    "--config=configs/lidc_mask2ct.py",
    "--config.data.data_dir=gs://bucket/data",
    "--workdir=gs://bucket/runs/it's a run",
    "--submission=again",
    "--accelerator=v5e-16",
    "--name=lungs",
    "--project=some-project",
    "--zone=us-west4-a",
]
ARGUMENTS = f"-m launch.train {' '.join(CREATE[1:5])}"

# In place of launch.train. Each start ends with the next code; negative codes are signals.
TRAIN = """
import os, pathlib, sys
assert os.environ["JAX_PLATFORMS"] == "tpu"
codes = pathlib.Path({codes!r})
code, *rest = codes.read_text().split()
codes.write_text(" ".join(rest))
pathlib.Path({starts!r}).open("a").write(" ".join(sys.orig_argv[1:]) + "\\n")
if int(code) < 0:
    os.kill(os.getpid(), -int(code))
raise SystemExit(int(code))
"""
# This systemd-run ignores options and runs its command; no unit is active here.
SYSTEMD_RUN = """#!/bin/bash
echo "$@" >>"$SYSTEMD_LOG"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


def _executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def worker(tmp_path, rendered):
    """A folder as the start-up script leaves it, except Python. -> (folder, codes, starts)."""
    codes, starts = tmp_path / "codes", tmp_path / "starts"
    (tmp_path / "code").mkdir()
    (tmp_path / "train.py").write_text(TRAIN.format(codes=str(codes), starts=str(starts)))
    python = f'#!/bin/bash\nexec python3 {tmp_path}/train.py "$@"\n'
    _executable(tmp_path / "venv/bin/python", python)
    shutil.copy(rendered / "tpu_vm-TpuSlice-1-END_OF_TRAIN.sh", tmp_path / "train.sh")  # 3 restarts
    return tmp_path, codes, starts


def _loop(folder):
    without_waiting = os.environ | {"BASH_FUNC_sleep%%": "() { :; }"}
    return subprocess.Popen(
        ["bash", folder / "train.sh"], stdout=subprocess.PIPE, text=True, env=without_waiting
    )


@pytest.mark.parametrize(
    ("given", "started", "ended"),
    [
        ("0 7", 1, 0),
        ("1 0", 1, 1),
        ("42 42 0", 3, 0),
        ("42 -9 1 0", 3, 1),
        ("-6 -15 134 0", 4, 0),
        ("42 42 42 42 0", 4, 42),
    ],
)
def test_a_worker_starts_again_until_the_end_is_final(worker, given, started, ended):
    folder, codes, starts = worker
    codes.write_text(given)
    out, _ = _loop(folder).communicate(timeout=60)
    assert len(starts.read_text().splitlines()) == started
    assert out.endswith(f"ended with exit code {ended}\n")


# In place of launch.train too: a run that is killed before each checkpoint but the first.
KILLED = """
import os, pathlib, signal, sys
os.environ["JAX_PLATFORMS"] = "cpu"
from launch.process import command, train_flags
from jax_pix2pix.runs import restarts
sys.argv[1:] = [argument for argument in sys.argv[1:] if argument.startswith("--submission")]
def main():
    workdir = pathlib.Path({workdir!r})
    with restarts.counted(str(workdir), train_flags.SUBMISSION.value):
        (workdir / "checkpoints/7").mkdir(parents=True, exist_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
command.run(main)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_before_the_restarts_do(worker):
    folder, _, _ = worker
    workdir = folder / "run"
    workdir.mkdir()
    (folder / "train.py").write_text(KILLED.format(workdir=str(workdir)))
    script = (folder / "train.sh").read_text().replace("start <= 3", "start <= 100")
    (folder / "train.sh").write_text(script)
    _executable(
        folder / "venv/bin/python",
        f'#!/bin/bash\nPYTHONPATH={ROOT} exec {sys.executable} {folder}/train.py "$@" '
        f"2>>{folder}/err\n",
    )
    out, _ = _loop(folder).communicate(timeout=300)
    # One start makes the checkpoint, and three do not get further.
    assert out.count("starting again") == 4 and out.endswith("ended with exit code 1\n")
    assert "3 starts in a row from the checkpoint of step 7" in error_line(
        (folder / "err").read_text()
    )


def test_a_worker_that_is_told_to_stop_saves_and_stays_stopped(worker):
    folder, _, starts = worker
    (folder / "train.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"
        f"    pathlib.Path({str(folder / 'saved')!r}).touch()\n"
        "    sys.exit(42)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(starts)!r}).open('a').write('start\\n')\n"
        "time.sleep(60)\n"
    )
    loop = _loop(folder)
    while not starts.exists():
        time.sleep(0.05)
    loop.send_signal(signal.SIGTERM)
    loop.communicate(timeout=60)
    assert loop.returncode == 42 and (folder / "saved").exists()
    assert starts.read_text() == "start\n"


@pytest.fixture
def gcloud(tmp_path):
    """A stand-in that records its arguments. -> call(command, state, run): lists of its arguments.

    state: of the existing slice; run: its workdir. The metadata files of a slice to be created
    become startup.sh and workdir in tmp_path.
    """
    log = tmp_path / "gcloud.jsonl"
    _executable(
        tmp_path / "bin/gcloud",
        f"""#!{sys.executable}
import json, os, shutil, sys
with open({str(log)!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if "describe" in sys.argv:
    found = [os.environ["STATE"], os.environ["RUN"]]
    sys.exit(print("\\n".join(found)) if found[0] else "error: not found")
start = "--metadata-from-file="
for argument in sys.argv:
    if argument.startswith(start):
        for item in argument.removeprefix(start).split(","):
            key, _, path = item.partition("=")
            name = {{"startup-script": "startup.sh", "pix2pix_workdir": "workdir"}}[key]
            shutil.copy(path, os.path.join({str(tmp_path)!r}, name))
""",
    )

    def call(*command, state="", run=WORKDIR, code=0):
        log.unlink(missing_ok=True)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "STATE": state, "RUN": run}
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert done.returncode == code, done.stderr
        call.stderr = done.stderr
        return [json.loads(line) for line in log.read_text().splitlines()]

    return call


def _tool(name):
    return str(ROOT / "launch/cluster/tpu_vm" / name)


WHERE = ["--zone=us-west4-a", "--project=some"]
WORKDIR = 'gs://bucket/it\'s "a run"'  # as in tests.launch.cluster.rendered


@pytest.mark.parametrize("state", ["", "ACTIVE", "SUSPENDED", "FAILED"])
def test_a_slice_that_was_preempted_makes_room(rendered, gcloud, state):
    calls = gcloud("bash", rendered / "tpu_vm-TpuSlice-1.sh", state=state)
    verbs = [call[3] for call in calls]
    gone = ["delete"] if state in ("SUSPENDED", "FAILED") else []
    assert verbs == ["describe", *gone, "create"]
    assert len({call[4] for call in calls}) == 1  # all calls name the same slice
    assert "--spot" in calls[-1]
    assert not Path(calls[-1][-1].rpartition("=")[2]).parent.exists()  # no file is left


@pytest.mark.parametrize("state", ["ACTIVE", "SUSPENDED", "FAILED"])
@pytest.mark.parametrize("run", ["gs://bucket/other", ""])
def test_a_slice_of_another_run_is_left_alone(rendered, gcloud, state, run):
    calls = gcloud("bash", rendered / "tpu_vm-TpuSlice-1.sh", state=state, run=run, code=1)
    assert [call[3] for call in calls] == ["describe"]
    whose = run or "of no workdir"
    line = f"error: the slice it-s-a-run is another run's ({whose}): give a --name\n"
    assert gcloud.stderr == line


def test_a_slice_says_whose_it_is(rendered, gcloud, tmp_path):
    """Its metadata say it, where the same command looks the next time."""
    describe, create = gcloud("bash", rendered / "tpu_vm-TpuSlice-1.sh")
    assert (tmp_path / "workdir").read_text() == WORKDIR
    assert "pix2pix_workdir=" in create[-1]
    assert ".metadata.pix2pix_workdir" in describe[-1]


@contextlib.contextmanager
def metadata(**attributes):
    """A metadata server of Google Cloud on this machine. -> its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            folder, _, name = self.path.rpartition("/")
            known = folder == "/computeMetadata/v1/instance/attributes" and name in attributes
            self.send_response(200 if known and self.headers["Metadata-Flavor"] else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


# In place of launch.train: what JAX makes of the variables and the machine's metadata.
PLACE = """
import sys
from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster as cluster
address = cluster.get_coordinator_address(1, None)
print(address, cluster.get_process_count(), cluster.get_process_id())
"""


@pytest.fixture(scope="module")
def of_two():
    """What is submitted for two slices of four hosts each."""
    text, _ = run(
        "launch.submit", *CREATE, "--slices=2", "--repository=a", "--revision=b", "--dry_run"
    )
    return text


def test_slices_are_one_queued_resource(of_two, gcloud, tmp_path):
    (tmp_path / "create.sh").write_text(of_two)
    *_, create = gcloud("bash", tmp_path / "create.sh", state="SUSPENDED", run=CREATE[3][10:])
    assert {"--node-count=2", "--node-prefix=lungs"} <= set(create)
    assert not any(argument.startswith("--node-id") for argument in create)
    scripts = [tmp_path / "create.sh"]
    for word, inner in files.scripts_within(of_two):
        scripts.append(tmp_path / f"{word}.sh")
        scripts[-1].write_text(inner)
    linted = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert len(scripts) == 3 and linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("slices", ["2", "3", ""])
def test_each_slice_finds_the_others(of_two, worker, slices):
    folder, _, _ = worker
    (folder / "train.py").write_text(PLACE)
    _executable(
        folder / "venv/bin/python", f'#!/bin/bash\nexec {sys.executable} {folder}/train.py "$@"\n'
    )
    (folder / "train.sh").write_text(dict(files.scripts_within(of_two))["END_OF_TRAIN"])
    tpu_env = "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_COORDINATOR_ADDRESS: '127.0.0.9'\n"
    tpu_env += f"MEGASCALE_NUM_SLICES: '{slices}'\nMEGASCALE_SLICE_ID: '1'\nWORKER_ID: '2'\n"
    given = {
        "tpu-env": tpu_env,
        "agent-worker-number": "2",
        "worker-network-endpoints": "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4",
    }
    with metadata(**given) as address:
        done = subprocess.run(
            ["bash", folder / "train.sh"],
            env=os.environ | {"GCE_METADATA_IP": address},
            capture_output=True,
            text=True,
        )
    if slices == "2":
        assert done.stdout == "127.0.0.9:8482 8 6\nended with exit code 0\n", done.stderr
    else:
        told = f"error: this machine's metadata tell of {slices or 'no'} slices and not of 2\n"
        assert (done.returncode, done.stdout) == (1, told)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="Google Cloud's command line is missing")
def test_gcloud_understands_every_command(rendered, of_two, gcloud, tmp_path):
    """It reads its arguments before it looks for an account, which is absent here."""
    calls = gcloud("bash", rendered / "tpu_vm-TpuSlice-1.sh", state="SUSPENDED")
    calls += gcloud("bash", rendered / "tpu_vm-TpuSlice-0.sh")[1:]
    (tmp_path / "create.sh").write_text(of_two)
    calls += gcloud("bash", tmp_path / "create.sh")[1:]
    calls += gcloud("bash", _tool("logs.sh"), "lungs", *WHERE)
    calls += gcloud("bash", _tool("delete.sh"), "lungs", *WHERE)
    script = tmp_path / "startup.sh"
    nobody = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "config"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
    }

    def answer(call):
        there = rf"--metadata-from-file=startup-script={script},pix2pix_workdir={script}"
        call = [re.sub("--metadata-from-file=.*", there, argument) for argument in call]
        result = subprocess.run(["gcloud", *call], env=nobody, capture_output=True, text=True)
        assert result.returncode
        return result.stderr

    for call in calls:
        assert "not currently have an active account" in answer(call), call
    assert "unrecognized arguments: --zones" in answer([*calls[0], "--zones=a"])


def test_tools_pass_on_names_and_commands(gcloud):
    ((*_, name, node, worker, command, zone, project),) = gcloud(
        _tool("run_on_all_workers.sh"), "lungs", "df -h '/opt/a b'", *WHERE
    )
    assert (name, node, worker) == ("lungs", "--node=all", "--worker=all")
    assert command == "--command=df -h '/opt/a b'"
    assert [zone, project] == WHERE
    ((*_, command, _, _),) = gcloud(_tool("logs.sh"), "lungs", *WHERE)
    assert command == "--command=hostname; tail --lines=20 /opt/lungs/log.txt"
    ((*_, command),) = gcloud(_tool("logs.sh"), "a; rm -r b")
    assert command == r"--command=hostname; tail --lines=20 /opt/a\;\ rm\ -r\ b/log.txt"


def test_what_a_worker_needs_has_to_be_given():
    _, err = run("launch.submit", *CREATE, "--revision=a", "--dry_run", code=1)
    assert error_line(err) == "error: --repository is missing, which tpu_vm needs"


def _commit(folder, text):
    (folder / "launch/train.py").write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    for command in (["add", "."], [*identity, "commit", "-qm", "x"], ["rev-parse", "HEAD"]):
        done = subprocess.run(
            ["git", "-C", folder, *command], check=True, capture_output=True, text=True
        )
    return done.stdout.strip()


SIX = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"  # of the wheel of 1.16.0
PROJECT = """
[project]
name = "stand-in"
version = "1"
optional-dependencies = { tpu = ["six"], storage = [], wandb = [], mlflow = [] }
[tool.setuptools]
packages = ["launch"]
[build-system]
requires = ["setuptools>=77"]
"""


@pytest.mark.slow
def test_a_worker_gets_the_project_and_trains(tmp_path, gcloud, monkeypatch):
    """Clones, gets Python, installs and trains, with a small project in place of this one."""
    origin, starts, log = tmp_path / "origin", tmp_path / "starts", tmp_path / "systemd.log"
    codes = tmp_path / "codes"
    (origin / "launch").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", origin], check=True)
    (origin / "pyproject.toml").write_text(PROJECT)
    shutil.copy(ROOT / "installers.txt", origin)
    (origin / "constraints-hashed.txt").write_text(f"six==1.16.0 --hash=sha256:{SIX}\n")
    (origin / "launch/__init__.py").touch()
    imports = "import six; assert six.__version__ == '1.16.0'\n"
    revision = _commit(origin, imports + TRAIN.format(codes=str(codes), starts=str(starts)))
    _commit(origin, "raise SystemExit('a later revision')")

    text, _ = run(
        "launch.submit", *CREATE, f"--repository={origin}", f"--revision={revision}", "--dry_run"
    )
    create = tmp_path / "create.sh"
    create.write_text(text, encoding="utf-8")
    gcloud("bash", create)
    _executable(tmp_path / "bin/systemd-run", SYSTEMD_RUN)
    _executable(
        tmp_path / "bin/systemctl", "#!/bin/bash\n[[ -e $ACTIVE && $3 == pix2pix-lungs ]]\n"
    )
    active = tmp_path / "active"
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SYSTEMD_LOG": str(log),
        "ACTIVE": str(active),
        "BASH_FUNC_sleep%%": "() { :; }",
    }
    keep = {name: value for name, value in os.environ.items() if "PYTHON" not in name}

    def boot():
        command = ["bash", tmp_path / "startup.sh", tmp_path / "worker"]
        code = subprocess.run(command, env=keep | environment).returncode
        return code, (tmp_path / "worker/log.txt").read_text()

    codes.write_text("42 -9 0")
    code, text = boot()
    assert code == 0 and text.endswith("ended with exit code 0\n"), text
    assert starts.read_text() == f"{ARGUMENTS}\n" * 3
    options = log.read_text().split()
    # No system unit has such a name, and a save may take longer than systemd's 90 seconds.
    wanted = {"--unit=pix2pix-lungs", "--property=TimeoutStopSec=600"}
    assert {*wanted, f"--setenv=HOME={os.environ['HOME']}"} <= set(options)

    shutil.rmtree(origin)  # a reboot needs no installation
    codes.write_text("1 0")
    code, text = boot()
    assert code == 1 and text.endswith("ended with exit code 1\n"), text

    active.touch()
    code, text = boot()
    assert code == 0 and text.endswith("training runs already\n"), text
    assert len(starts.read_text().splitlines()) == 4
