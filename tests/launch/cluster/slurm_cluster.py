"""A real Slurm of two nodes on this machine: munged, slurmctld and a slurmd for each node.

It needs root and Debian's slurmctld, slurmd, slurm-client and munge. It leaves an installed Slurm
alone, but the names of the nodes are in /etc/hosts meanwhile.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import free_port

NODES = ("pix2pix-node1", "pix2pix-node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")

CONFIG = """\
ClusterName=pix2pix
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
SlurmdParameters=config_overrides
UnkillableStepTimeout=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=DEFAULT CPUs=2 RealMemory=2000 Gres=gpu:h100:2 State=UNKNOWN
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

# GPUs to ask for. Any files do, as no cgroups are made of them.
GPUS = "Name=gpu Type=h100 File={folder}/gpu[0-1]\n"


class Cluster:
    """The operations that tests need."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.variables = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons = {}

    def start(self, name, *command):
        path = f"/usr/sbin:/sbin:{os.environ['PATH']}"
        self._daemons[name] = subprocess.Popen(
            command,
            env=os.environ | self.variables | {"PATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start_node(self, node):
        self.start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node):
        """Kills what a power cut does: the daemon, and each job's processes and their watcher."""
        self._daemons.pop(node).kill()
        for process in _of_node(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def run(self, *command):
        done = subprocess.run(
            command, env=os.environ | self.variables, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command, done)
        return done.stdout

    def field(self, job, name):
        """A field of `scontrol show job`."""
        fields = dict(
            field.split("=", 1)
            for field in self.run("scontrol", "show", "job", "--oneliner", str(job)).split()
            if "=" in field
        )
        return fields[name]

    def wait(self, job, *states, seconds=480):
        """Waits until the job is in one of the states. -> the state."""
        end = time.monotonic() + seconds
        while (state := self.field(job, "JobState")) not in states:
            assert time.monotonic() < end, (state, self.run("scontrol", "show", "job", str(job)))
            time.sleep(0.5)
        return state

    def wait_for_restart(self, job, seconds=120):
        """Waits until the job is queued a second time."""
        end = time.monotonic() + seconds
        while self.field(job, "Restarts") != "1" or self.field(job, "JobState") != "PENDING":
            assert time.monotonic() < end, self.run("scontrol", "show", "job", str(job))
            time.sleep(0.5)

    def start_now(self, job):
        """Starts the job now rather than two minutes after it was queued again."""
        self.wait_for_idle()
        time.sleep(15)  # idle nodes may still clean up, and would then be busy
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def wait_for_idle(self):
        _until(lambda: _idle(self))

    def stop(self):
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _of_node(node):
    """The processes that a slurmd started: tasks, known by their environment, and watchers."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURMD_NODENAME={node}\0".encode() in (folder / "environ").read_bytes():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found |= {int(folder.name)}
                if "slurmstepd" in Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8"):
                    found |= {parent}
    return found


@contextlib.contextmanager
def slurm(folder):
    """-> Cluster with both nodes idle."""
    missing = [program for program in PROGRAMS if not _which(program)]
    if missing or os.geteuid():
        reason = f"needs root and Slurm; missing: {missing}"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    cluster = Cluster(folder)
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (cluster.folder / name).mkdir()
    key = cluster.folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (cluster.folder / "slurm.conf").write_text(
        CONFIG.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            controller=free_port(),
            ports=[free_port() for _ in NODES],
            nodes=NODES,
        )
    )
    (cluster.folder / "gres.conf").write_text(GPUS.format(folder=folder))
    for number in range(2):
        (cluster.folder / f"gpu{number}").touch()
    (cluster.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    with _names_in_hosts():
        try:
            files = [
                f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")
            ]
            cluster.start(
                "munged", "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
                *files,
            )  # fmt: skip
            _until(lambda: (cluster.folder / "munge.socket").exists())
            cluster.start("slurmctld", "slurmctld", "-D", "-i")
            for node in NODES:
                cluster.start_node(node)
            _until(lambda: _idle(cluster))
            yield cluster
        finally:
            cluster.stop()


def _idle(cluster):
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"],
        env=os.environ | cluster.variables,
        capture_output=True,
        text=True,
    )
    return done.stdout.split() == ["idle"] * len(NODES)


def _until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


@contextlib.contextmanager
def _names_in_hosts():
    hosts = Path("/etc/hosts")
    before = hosts.read_text(encoding="utf-8")
    lines = "".join(f"127.0.0.1 {node}\n" for node in NODES)
    hosts.write_text(before.rstrip("\n") + "\n" + lines, encoding="utf-8")
    try:
        yield
    finally:
        hosts.write_text(hosts.read_text(encoding="utf-8").replace(lines, ""), encoding="utf-8")


def _which(program):
    return shutil.which(program, path=f"/usr/sbin:/sbin:{os.environ['PATH']}")
