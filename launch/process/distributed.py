"""Starts JAX for one process or many, on every platform."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax
from absl import flags
from jax._src.clusters import ClusterEnv

from jax_pix2pix.errors import EXIT_RESTART, ConfigError
from jax_pix2pix.logs import messages
from jax_pix2pix.runs.processes import google_notice
from launch.process import lost_process, start_signals

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0; not needed on TPU, Slurm and Open MPI"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes of this run", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process's number, from 0", 0)
_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "seconds in which all processes must have started", 1
)

RESOLVE_SECONDS = 5
PORT_SECONDS = 10  # in which an earlier start of the run frees its port
FOR_EVER = 10**6  # seconds; more than some days JAX does not take

# These mean the same as the three flags, for launchers that set variables. The first is JAX's own.
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_address = None  # of the coordinator, once there is one


def initialize(heartbeat_seconds):
    """Starts jax.distributed, even for a single process, because it turns SIGTERM into a save.

    SIGUSR1, which batch systems send some time before the end, does the same. Explicit flags win
    over the environment's VARIABLES, and these over what JAX detects: Slurm, Open MPI, TPUs of
    Google Cloud and of its Kubernetes. Otherwise this is the only process. Open MPI 5 needs the
    first variable.

    A process alone is never taken for dead, not even after a pause of days. A stop that was asked
    for before all processes had come ends all of them with EXIT_RESTART.

    If some processes have not started within --initialization_timeout, the others end with
    EXIT_RESTART. So do pods if the first pod has no address by then: a pod gets its address once a
    machine is found for it.

    Args:
        heartbeat_seconds: seconds without a sign of life after which a process counts as dead; JAX
            then ends the others by SIGABRT.

    Raises:
        ConfigError: heartbeat_seconds is less than 1; some of the three flags or variables are
            given and others are not, or are malformed; the coordinator's name has no address, or
            its port is in use.
    """
    global _address
    if heartbeat_seconds < 1:  # JAX gets it before the config is checked
        raise ConfigError(f"config.heartbeat_seconds={heartbeat_seconds}: use 1 or more")
    address, processes, process, local_devices = _place()
    bind = None
    if address is None:
        address, processes, process = f"127.0.0.1:{_free_port()}", 1, 0
        bind = address  # JAX's default listens on all interfaces
        heartbeat_seconds = FOR_EVER
    host, port = _host_and_port(address)
    _address = address
    with _Deadline(_TIMEOUT.value, host, port, processes, process):
        if processes > 1:
            _resolve(host)
            _without_proxy(host)
            if process == 0:
                _check_free(host, port)
        jax.distributed.initialize(
            address,
            processes,
            process,
            local_devices,
            cluster_detection_method="deactivate",
            # Later than our own deadline, as JAX would abort with a C++ stack trace.
            initialization_timeout=_TIMEOUT.value + 60,
            heartbeat_timeout_seconds=heartbeat_seconds,
            coordinator_bind_address=bind,
        )
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        stop = start_signals.settle()
        stopped = lost_process.meet(stop, _TIMEOUT.value) if processes > 1 else stop and "this one"
    if stopped:
        jax.distributed.shutdown()  # or the first to end would abort the others
        _end(f"{stopped} was asked to stop before training began: nothing to save")
    if processes > 1:
        lost_process.watch(heartbeat_seconds, host, port)
    if process:
        messages.show_in_log_only()
    google_notice.watch()


def given():
    """The flags of this module that were given, for a process that this one starts."""
    found = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _TIMEOUT)
    return [flags.FLAGS[flag.name].serialize() for flag in found if flag.present]


def coordinator():
    """The address of process 0, for a line of the log."""
    return _address


def _place() -> tuple[Any, Any, Any, Any]:
    """-> (coordinator's address, processes, this one's number, its devices or None for all).

    All are None if there is nothing to find.
    """
    given = [_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value]
    names = ["--coordinator_address", "--num_processes", "--process_id"]
    if all(value is None for value in given) and any(map(os.environ.get, VARIABLES[1:])):
        given = [os.environ.get(VARIABLES[0]), *map(_number, VARIABLES[1:])]
        names = list(VARIABLES)
    if all(value is not None for value in given):
        _, processes, process = given
        if process >= processes:
            raise ConfigError(f"{names[2]}={process}: of {processes} processes it is 0 or more")
        return *given, None
    if any(value is not None for value in given):
        raise ConfigError(f"{', '.join(names)} go together: give all or none")
    # A private part of JAX. initialize() would detect the same, but then wait
    # minutes for a host that has no address.
    try:
        place = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get(VARIABLES[0]), None, None, None, None, _TIMEOUT.value
        )
    except Exception as error:  # also errors of servers that it asks
        message = (
            f"JAX does not find the processes of this cluster ({error}): give {', '.join(names)}"
        )
        if _in_pod() and isinstance(error, RuntimeError):  # its first host has no address yet
            _end(message)
        raise ConfigError(message) from None
    address, processes, process, _ = place
    ranks = [int(os.environ.get(f"OMPI_COMM_WORLD_{name}", 0)) for name in ("SIZE", "RANK")]
    if processes is None and ranks[0] > 1:
        if address is None:
            raise ConfigError(
                "Open MPI 5 and later does not say where process 0 is: mpirun -x "
                f"{VARIABLES[0]}=HOST:PORT, its first host and a port that is free there"
            )
        return address, ranks[0], ranks[1], None
    if address is not None and (processes is None or process is None):
        raise ConfigError(
            f"{VARIABLES[0]} is set, but not how many processes there are and which is this: set "
            f"{VARIABLES[1]} and {VARIABLES[2]} too"
        )
    return place


def _number(name):
    value = os.environ.get(name)
    if value and not value.isdecimal():
        raise ConfigError(f'{name}="{value}": use a whole number')
    return int(value) if value else None


def _host_and_port(address):
    """ "host:1234" or "[::1]:1234" -> ("host", 1234)."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    unbracketed = ":" in bare and bare == host  # IPv6, whose last part is no port
    if not bare or unbracketed or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f'the coordinator\'s address "{address}" is not host:port, host0:1234 for instance'
        )
    return bare, int(port)


def _in_pod():
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _resolve(host):
    """Waits for the host's address: in a pod until the deadline, else for RESOLVE_SECONDS."""
    end = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > end and not _in_pod():
                raise ConfigError(
                    f"the coordinator's host {host} has no address ({error}) after "
                    f"{RESOLVE_SECONDS} s: check its name, /etc/hosts and DNS"
                ) from None
        time.sleep(1)


def _check_free(host, port):
    """Raises ConfigError if JAX could not listen there: it would end with a stack of C++."""
    end = time.monotonic() + PORT_SECONDS
    while True:
        try:
            _listen_as_jax(port)
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"process 0 cannot listen on port {port} of {host} "
                    f"({os.strerror(error.errno or 0)}): end the program that uses it, or give "
                    "the processes another port"
                ) from None
        time.sleep(0.5)


def _listen_as_jax(port):
    """Listens for a moment on all interfaces, of IPv4 too."""
    if socket.has_dualstack_ipv6():
        socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
    else:
        socket.create_server(("", port)).close()


def _without_proxy(host):
    """Keeps gRPC, by which processes talk, from reaching the coordinator through http_proxy."""
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        if os.environ.get(name):
            os.environ["no_grpc_proxy"] = f"{os.environ[name]},{host}"
            break
    else:
        os.environ["no_grpc_proxy"] = host
    logging.getLogger("jax._src.distributed").addFilter(
        lambda record: "proxy variable" not in record.getMessage()
    )


class _Deadline:
    """Ends this process with a one-line error if the others do not start in time."""

    def __init__(self, seconds, host, port, processes, process):
        self._seconds, self._processes, self._process = seconds, processes, process
        self._address = f"{host}:{port}"
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self):
        self._timer.start()

    def __exit__(self, *_):
        self._timer.cancel()

    def _end(self):
        what = (
            f"not all of {self._processes} processes came to {self._address}"
            if self._process == 0
            else f"process {self._process} of {self._processes} did not reach process 0 at "
            f"{self._address}, or others did not"
        )
        _end(
            f"{what} within {self._seconds} s: see whether each started, and whether a firewall "
            "lets this port through; --initialization_timeout waits longer"
        )


def _end(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(EXIT_RESTART)


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
