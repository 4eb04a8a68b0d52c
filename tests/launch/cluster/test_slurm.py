"""launch.submit slurm on a real Slurm: two nodes, signals, a lost node, errors."""

import os
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.commands import SUBMITTED, metrics, run, submit, tiny_training
from tests.faults import runs
from tests.launch.cluster.slurm_cluster import NODES, slurm

pytestmark = pytest.mark.slow

HEARTBEAT = 10  # seconds


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sample_data_dir):
    """Losses of one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    runs.train(_arguments(workdir, sample_data_dir), devices=2, float64=True)
    return metrics(workdir)


def _arguments(workdir, data_dir, **overrides):
    fields = {
        "dtype": "float64",
        "data.image_size": 32,
        "generator.depth": 3,
        "heartbeat_seconds": HEARTBEAT,
    }
    return tiny_training(workdir, data_dir, **fields | overrides)


def _submit(cluster, arguments):
    """-> the job's number."""
    out, _ = run(
        "launch.submit", "slurm", "--nodes=2", "--accelerator=cpu:1", *arguments,
        variables=cluster.variables | SUBMITTED,
    )  # fmt: skip
    assert out.startswith("Submitted batch job ")
    return int(out.split()[-1])


def _log(workdir, job):
    return (workdir / f"slurm-{job}.log").read_text()


def _wait_for_step(cluster, workdir, job, step):
    end = time.monotonic() + 480
    while runs.logged_step(workdir) < step:
        assert time.monotonic() < end and cluster.field(job, "JobState") in ("PENDING", "RUNNING")
        time.sleep(0.1)


def _finished_like(undisturbed, workdir):
    lines = metrics(workdir)
    assert [line["step"] for line in lines] == [line["step"] for line in undisturbed]
    _begun_like(undisturbed, workdir)


def _begun_like(undisturbed, workdir):
    for line, other in zip(metrics(workdir), undisturbed, strict=False):
        assert set(line) == set(other)
        for name in set(line) - {"split", "batch_ids"}:
            np.testing.assert_allclose(line[name], other[name], rtol=0, atol=1e-5)


def test_after_usr1_the_run_is_queued_again_and_goes_on(
    cluster, sample_data_dir, tmp_path, undisturbed
):
    arguments = _arguments(tmp_path, sample_data_dir, checkpoint_every_epochs=2)
    job = _submit(cluster, [*arguments, "--restarts=1"])
    _wait_for_step(cluster, tmp_path, job, 3)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))  # as Slurm does before the end
    cluster.wait_for_restart(job)
    stopped = runs.steps(tmp_path)[-1]
    assert 3 <= stopped < undisturbed[-1]["step"]
    assert "devices      2 cpu in 2 process(es)" in _log(tmp_path, job)
    assert "exit code 42: queued again" in _log(tmp_path, job)
    cluster.start_now(job)
    _wait_for_step(cluster, tmp_path, job, stopped + 2)
    cluster.run("scancel", "--batch", "--signal=TERM", str(job))
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert cluster.field(job, "ExitCode") == "42:0"
    assert "exit code 42: not queued again after 1 restarts" in _log(tmp_path, job)
    assert stopped + 2 <= runs.steps(tmp_path)[-1] < undisturbed[-1]["step"]
    _begun_like(undisturbed, tmp_path)


def test_a_lost_node_is_no_end(cluster, sample_data_dir, tmp_path, undisturbed):
    job = _submit(cluster, _arguments(tmp_path, sample_data_dir, checkpoint_every_steps=3))
    _wait_for_step(cluster, tmp_path, job, 5)
    cluster.kill_node(NODES[1])
    cluster.wait_for_restart(job)
    cluster.start_node(NODES[1])
    cluster.start_now(job)
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", _log(tmp_path, job)
    _finished_like(undisturbed, tmp_path)


# A stand-in for Apptainer. An image is a script here, which gets the command.
APPTAINER = """\
#!/bin/bash
[[ $1 == exec ]] && shift
[[ $1 == --nv ]] && shift
[[ $1 == --pwd ]] && cd "$2" && shift 2
while [[ $1 == --bind ]]; do [[ -d $2 ]] && shift 2 || exit 254; done
[[ -f $1 ]] || { echo "could not open image $1" >&2; exit 255; }
exec "$@"
"""
IMAGES = {
    "trains": 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"\n'
    f'exec {shlex.quote(sys.executable)} "${{@:2}}"',
    "fails": "((SLURM_PROCID == 0)) || kill -ABRT $$; exit 1",
    "killed": "kill -KILL $$",
    "waits": 'trap "sleep 2; exit 42" TERM; for ((i = 0; i < 600; i++)); do sleep 0.1; done',
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with images and with `apptainer`."""
    folder = tmp_path_factory.mktemp("images")
    for name, text in {"apptainer": APPTAINER, **IMAGES}.items():
        script = folder / name
        script.write_text(text if name == "apptainer" else f"#!/bin/bash\n{text}\n")
        script.chmod(0o755)
    return folder


@pytest.mark.long
def test_a_printed_file_trains_in_containers_with_a_process_a_node(
    cluster, images, sample_data_dir, tmp_path
):
    workdir = tmp_path / "new/run"
    call = [
        "slurm", "--nodes=2", "--accelerator=h100:2", "--mem=1G", "--container=apptainer",
        f"--image={os.path.relpath(images / 'trains')}",
        *_arguments(workdir, sample_data_dir, epochs=1, **{"data.batch_size": 28}),
    ]  # fmt: skip
    (code, whole, err), (_, each, _) = submit(
        [[*call, "--process_per=node", "--dry_run"], [*call, "--process_per=gpu", "--dry_run"]],
        SUBMITTED,
    )
    assert (code, err) == (0, "")
    file = tmp_path / "train.sbatch"
    file.write_text(each)
    cluster.run("sbatch", "--test-only", str(file))
    # There is no GPU; a device of the CPU takes its place.
    device = "export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 "
    file.write_text(whole.replace("export JAX_PLATFORMS=cuda ", device))
    assert file.read_text() != whole
    (made,) = re.findall(
        "mkdir -p .*", next(line for line in whole.splitlines() if "mkdir" in line)
    )
    subprocess.run(made, shell=True, check=True)
    out = subprocess.run(
        ["sbatch", "--parsable", file],
        env=os.environ | cluster.variables | SUBMITTED | _first_on_path(images),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    job = int(out)
    assert cluster.field(job, "TresPerNode") == "gres:gpu:h100:2"
    assert cluster.field(job, "NumTasks") == "2"
    assert cluster.field(job, "MinMemoryNode") == "1G"
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", _log(workdir, job)
    assert "devices      2 cpu in 2 process(es)" in _log(workdir, job)
    assert f"1 of 2 at {NODES[0]}:" in _log(workdir, job)
    assert "finished 1 epochs" in _log(workdir, job)


def _first_on_path(folder):
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.long
def test_an_error_is_final(cluster, tmp_path):
    job = _submit(cluster, _arguments(tmp_path, tmp_path / "data", **{"data.dataset": "liver_ct"}))
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert cluster.field(job, "ExitCode") == "1:0"
    assert cluster.field(job, "Restarts") == "0"
    assert "error: " in _log(tmp_path, job)


@pytest.fixture(scope="module")
def ended(cluster, images, tmp_path_factory):
    """Submitted jobs that train nothing: {name: (number, workdir)}."""
    folder = tmp_path_factory.mktemp("ended")
    names = ["fails", "missing", "pyxis", "killed", "waits", "waits too"]
    calls = [
        [
            "slurm", "--nodes=2", "--accelerator=cpu:1", f"--image={images / name.split()[0]}",
            f"--workdir={folder / name}", "--config=configs/lidc_mask2ct.py:quickstart",
            f"--container={'pyxis' if name == 'pyxis' else 'apptainer'}",
        ]
        for name in names
    ]  # fmt: skip
    done = submit(calls, cluster.variables | _first_on_path(images))
    assert [code for code, _, _ in done] == [0] * len(names), done
    jobs = {name: int(out.split()[-1]) for name, (_, out, _) in zip(names, done, strict=True)}
    yield {name: (job, folder / name) for name, job in jobs.items()}
    cluster.run("scancel", *map(str, jobs.values()))  # left over by a failed test
    cluster.wait_for_idle()


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ("fails", "process 0 on pix2pix-node1: exit code 1"),
        ("missing", "process 1 on pix2pix-node2: exit code 255"),
        ("pyxis", "unrecognized option '--container-image="),
    ],
)
def test_what_a_restart_would_meet_again_is_final(cluster, ended, image, line):
    job, workdir = ended[image]
    assert cluster.wait(job, "FAILED", "COMPLETED", seconds=60) == "FAILED"
    assert cluster.field(job, "ExitCode") == "1:0"
    assert cluster.field(job, "Restarts") == "0"
    assert line in _log(workdir, job) and ": final, " in _log(workdir, job)


def test_a_killed_process_is_queued_again(cluster, ended):
    job, workdir = ended["killed"]
    cluster.wait_for_restart(job)
    assert "exit code 137: queued again" in _log(workdir, job)
    cluster.run("scancel", str(job))


def test_term_of_srun_too_queues_again(cluster, ended):
    job, workdir = ended["waits too"]
    cluster.wait(job, "RUNNING")
    time.sleep(2)
    cluster.run("scancel", "--full", "--signal=TERM", str(job))
    cluster.wait_for_restart(job)
    assert re.search(r"exit code 1[34]\d: queued again", _log(workdir, job))
    cluster.run("scancel", str(job))


def test_a_cancelled_job_is_not_queued_again(cluster, ended):
    job, workdir = ended["waits"]
    cluster.wait(job, "RUNNING")
    time.sleep(2)
    cluster.run("scancel", str(job))
    assert cluster.wait(job, "CANCELLED", "PENDING") == "CANCELLED"
    cluster.wait_for_idle()
    assert cluster.field(job, "JobState") == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"
    assert "queued again" not in _log(workdir, job)
