"""One start of JAX for one process and for many."""

import os
import signal
import socket

import jax
from absl import flags

from jax_pix2pix.errors import ConfigError

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0; not needed on TPU, Slurm and Open MPI"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes of this run")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process's number, from 0")

# Slurm's is there under srun alone: a batch script's own command is one process.
_CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE")


def initialize(heartbeat_seconds):
    """Starts jax.distributed, with a single process too: it is what turns SIGTERM into a save.

    SIGUSR1, which batch systems send some time before the end, does the same. Explicit flags win;
    else JAX detects the cluster; else this is the only process.

    Args:
        heartbeat_seconds: without a sign of life after which a process counts as dead; JAX then
            ends the others by SIGABRT.

    Raises:
        ConfigError: heartbeat_seconds is less than 1; some of the three flags are given and others
            are not, or JAX does not know what it needs of the cluster.
    """
    if heartbeat_seconds < 1:  # which JAX gets before the config is looked at
        raise ConfigError(f"config.heartbeat_seconds={heartbeat_seconds}: use 1 or more")
    given = [_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value]
    timeout = {"heartbeat_timeout_seconds": heartbeat_seconds}
    if all(value is not None for value in given):
        jax.distributed.initialize(*given, **timeout)
    elif any(value is not None for value in given):
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id go together: give all or none"
        )
    elif any(name in os.environ for name in _CLUSTER_VARIABLES) or _on_tpu_pod():
        try:
            jax.distributed.initialize(**timeout)
        except ValueError as error:
            raise ConfigError(
                f"JAX does not find the processes of this cluster ({error}): give "
                "--coordinator_address, --num_processes and --process_id"
            ) from None
    else:
        address = f"127.0.0.1:{_free_port()}"
        # JAX's default listens on all interfaces.
        jax.distributed.initialize(address, 1, 0, coordinator_bind_address=address, **timeout)
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def coordinator():
    """The address of process 0 as far as it is known here, for a line of the log."""
    otherwise = "this process" if jax.process_count() == 1 else "found by JAX"
    return _COORDINATOR.value or os.environ.get("JAX_COORDINATOR_ADDRESS") or otherwise


def _on_tpu_pod():
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
