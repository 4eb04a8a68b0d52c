"""One start of JAX for one process and for many."""

import os
import socket

import jax
from absl import flags

from jax_pix2pix.errors import ConfigError

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0; not needed on TPU, Slurm and Open MPI"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of this run")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process's number, from 0")

_CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE")


def initialize():
    """Starts jax.distributed, with a single process too: it is what turns SIGTERM into a save.

    Explicit flags win; else JAX detects the cluster; else this is the only process.

    Raises:
        ConfigError: some of the three flags are given and others are not.
    """
    given = [_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value]
    if all(value is not None for value in given):
        jax.distributed.initialize(*given)
    elif any(value is not None for value in given):
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id go together: give all or none"
        )
    elif any(name in os.environ for name in _CLUSTER_VARIABLES) or _on_tpu_pod():
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(f"127.0.0.1:{_free_port()}", 1, 0)


def _on_tpu_pod():
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
