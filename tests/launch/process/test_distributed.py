"""How processes find each other, and their messages when they do not."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from jax_pix2pix.errors import EXIT_RESTART, ConfigError
from launch.process import distributed
from tests.commands import ROOT, free_port, python

ALONE = """
import sys, jax
from absl import flags
from launch.process import command, distributed
def main():
    distributed.initialize(10)
    line = f"{jax.process_index()} {jax.process_count()}\\n"
    print(line, end="")  # at once, or mpirun may put parts of two lines into one
command.run(main)
"""


@pytest.fixture(autouse=True)
def _parsed_flags():
    flags.FLAGS.mark_as_parsed()  # all have their defaults
    yield
    flags.FLAGS.unparse_flags()


# Pretends to be on a machine with TPUs.
WITH_TPUS = "import jax._src.clusters.cloud_tpu_cluster as c; c.running_in_cloud_tpu_vm = True"


def _start(*arguments, before="", **variables):
    """Starts distributed.initialize in a process of its own."""
    return python("-c", before + ALONE, *arguments, variables=variables)


def _variables(address, processes, process):
    return dict(zip(distributed.VARIABLES, (address, str(processes), str(process)), strict=True))


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_heartbeat_takes_time(seconds):
    with pytest.raises(ConfigError, match=rf"config\.heartbeat_seconds={seconds}: use 1 or more"):
        distributed.initialize(seconds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 2}, "--coordinator_address, --num_processes, --process_id go together"),
        (
            {"coordinator_address": "host0:1234", "num_processes": 2, "process_id": 2},
            "--process_id=2: of 2 processes it is 0 or more",
        ),
        *[
            (
                {"coordinator_address": address, "num_processes": 2, "process_id": 0},
                "is not host:port",
            )
            for address in ("host0", "host0:", ":1234", "host0:port", "host0:70000", "fe80::1:1234")
        ],
    ],
)
def test_flags_that_do_not_fit(given, message):
    with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match=message):
        distributed.initialize(10)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID go"),
        ({"JAX_COORDINATOR_ADDRESS": "host0:1"}, "set JAX_NUM_PROCESSES and JAX_PROCESS_ID too"),
        (_variables("host0:1", "two", 0), 'JAX_NUM_PROCESSES="two": use a whole number'),
        (_variables("host0", 2, 0), '"host0" is not host:port'),
    ],
)
def test_variables_that_do_not_fit(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with flagsaver.flagsaver(), pytest.raises(ConfigError, match=message):
        distributed.initialize(10)


def test_a_port_that_is_in_use_is_told(monkeypatch):
    monkeypatch.setattr(distributed, "PORT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = {"coordinator_address": f"127.0.0.1:{port}", "num_processes": 2, "process_id": 0}
        match = rf"cannot listen on port {port} of 127\.0\.0\.1 \(Address already in use\): end the"
        with flagsaver.flagsaver(**given), pytest.raises(ConfigError, match=match):
            distributed.initialize(10)


PAUSED = """
import sys, time
from launch.process import command, distributed
from jax_pix2pix.runs.processes.watchdog import Watchdog
def main():
    distributed.initialize(1)
    watchdog = Watchdog(6, {folder!r})
    watchdog.start()
    print("up", flush=True)
    sys.stdin.readline()
    time.sleep(2)  # longer than the watchdog would wait now, had the pause counted
    print("alive")
command.run(main)
"""


@pytest.mark.slow
def test_a_process_alone_survives_a_pause(tmp_path):
    """A laptop's lid, for instance: longer than the heartbeat and than the watchdog's time."""
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED.format(folder=str(tmp_path))],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("\n", timeout=60)
    assert (process.returncode, out) == (0, "alive\n")


def test_a_name_without_address_is_told_within_seconds():
    start = time.monotonic()
    given = {"coordinator_address": "nohost.invalid:1234", "num_processes": 2, "process_id": 1}
    with (
        flagsaver.flagsaver(**given),
        pytest.raises(ConfigError, match=r"host nohost\.invalid has no address .* after 5 s"),
    ):
        distributed.initialize(10)
    assert 5 <= time.monotonic() - start < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "what"),
    [
        (_variables("nohost.invalid:1", 2, 1), "process 1 of 2 did not reach process 0 at nohost"),
        (  # as Google Cloud's Kubernetes tells pods on TPUs
            {
                "TPU_WORKER_HOSTNAMES": "nohost.invalid,host1.invalid",
                "TPU_WORKER_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "nohost.invalid",
                "MEGASCALE_NUM_SLICES": "1",
                "MEGASCALE_SLICE_ID": "0",
            },
            "JAX does not find the processes of this cluster (Failed to recognize coordinator",
        ),
    ],
)
def test_pods_wait_for_the_first_ones_address_and_start_again(variables, what):
    """The first pod may have no machine yet, so a restart can help."""
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", **variables}
    alone = _start("--initialization_timeout=7", before=WITH_TPUS, **pod)
    out, err = alone.communicate(timeout=120)
    assert alone.returncode == EXIT_RESTART, err
    assert out == "" and err.startswith(f"error: {what}") and err.count("\n") == 1


def test_flags_win_over_variables_and_a_proxy_is_no_obstacle():
    """One process also has no_proxy for another host, which gRPC reads no more after our change."""
    port = free_port()
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    processes = [
        _start(**_variables(f"127.0.0.1:{port}", 2, 0), **proxy),
        _start(
            f"--coordinator_address=127.0.0.1:{port}",
            "--num_processes=2",
            "--process_id=1",
            **_variables("nohost.invalid:1", 3, 2),
            **proxy,
            no_proxy="elsewhere",
        ),
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in results] == ["0 2\n", "1 2\n"], results
    assert [err for _, err in results] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "what"),
    [(0, "not all of 2 processes came to"), (1, "process 1 of 2 did not reach process 0 at")],
)
def test_others_that_do_not_come_are_one_line(process, what):
    address = f"127.0.0.1:{free_port()}"
    alone = _start("--initialization_timeout=2", **_variables(address, 2, process))
    out, err = alone.communicate(timeout=120)
    assert alone.returncode == EXIT_RESTART
    assert out == "" and err.startswith(f"error: {what} {address}") and err.count("\n") == 1


@pytest.fixture
def mpirun():
    """Runs a command on two ranks."""
    if shutil.which("mpirun") is None:
        if "CI" in os.environ:
            pytest.fail("needs mpirun")
        pytest.skip("needs mpirun")

    def run(*command, **variables):
        return subprocess.run(
            ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", *command],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.slow
def test_open_mpi_is_detected(mpirun):
    done = mpirun(sys.executable, "-c", ALONE)
    assert done.returncode == 0, done
    assert sorted(done.stdout.splitlines()) == ["0 2", "1 2"]


@pytest.mark.slow
def test_open_mpi_5_is_told_where_the_first_process_is(mpirun):
    """Without the variable by which JAX detects Open MPI 4, as this is how version 5 differs."""
    command = ["env", "-u", "OMPI_MCA_orte_hnp_uri", sys.executable, "-c", ALONE]
    done = mpirun(*command, JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{free_port()}")
    assert done.returncode == 0, done
    assert sorted(done.stdout.splitlines()) == ["0 2", "1 2"]
    done = mpirun(*command)
    assert done.returncode == 1
    assert "error: Open MPI 5 and later does not say where process 0 is" in done.stderr
