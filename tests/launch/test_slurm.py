"""launch.submit slurm on a real Slurm: two nodes, a signal, a lost node, an error."""

import time

import numpy as np
import pytest

from tests.commands import metrics, run, tiny_training
from tests.faults import runs
from tests.launch.slurm_cluster import NODES, slurm

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
    unoptimised = {"JAX_ENABLE_X64": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    out, _ = run(
        "launch.submit", "slurm", "--nodes=2", "--accelerator=cpu:1", *arguments,
        variables=cluster.variables | unoptimised,
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
    for line, other in zip(lines, undisturbed, strict=True):
        assert set(line) == set(other)
        for name in set(line) - {"split", "batch_ids"}:
            np.testing.assert_allclose(line[name], other[name], rtol=0, atol=1e-5)


def test_two_nodes_train_what_one_process_does(cluster, sample_data_dir, tmp_path, undisturbed):
    job = _submit(cluster, _arguments(tmp_path, sample_data_dir))
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", _log(tmp_path, job)
    assert "devices      2 cpu in 2 process(es)" in _log(tmp_path, job)
    _finished_like(undisturbed, tmp_path)


def test_after_usr1_the_run_is_queued_again_and_goes_on(
    cluster, sample_data_dir, tmp_path, undisturbed
):
    job = _submit(cluster, _arguments(tmp_path, sample_data_dir, checkpoint_every_epochs=2))
    _wait_for_step(cluster, tmp_path, job, 3)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))  # as Slurm does before the end
    cluster.wait_for_restart(job)
    stopped = runs.steps(tmp_path)[-1]
    assert 3 <= stopped < undisturbed[-1]["step"]
    assert "exit code 42: queued again" in _log(tmp_path, job)
    cluster.start_now(job)
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", _log(tmp_path, job)
    _finished_like(undisturbed, tmp_path)


def test_a_lost_node_is_no_end(cluster, sample_data_dir, tmp_path, undisturbed):
    job = _submit(cluster, _arguments(tmp_path, sample_data_dir, checkpoint_every_steps=3))
    _wait_for_step(cluster, tmp_path, job, 5)
    cluster.kill_node(NODES[1])
    cluster.wait_for_restart(job)
    cluster.start_node(NODES[1])
    cluster.start_now(job)
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", _log(tmp_path, job)
    _finished_like(undisturbed, tmp_path)


def test_an_error_is_final(cluster, tmp_path):
    job = _submit(cluster, _arguments(tmp_path, tmp_path / "data", **{"data.dataset": "liver_ct"}))
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert cluster.field(job, "ExitCode") == "1:0"
    assert cluster.field(job, "Restarts") == "0"
    assert "error: " in _log(tmp_path, job)
