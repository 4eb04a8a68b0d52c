"""Hears signals from a command's first moment: while it imports, and meets the other processes.

A thread hears them, since Python's own handlers wait while the main thread is in C++. There is
nothing to save yet, so a process alone ends at once. One of several first comes to the others, who
would else wait for it in vain, and `distributed.initialize` ends all.
"""

import os
import signal
import socket
import sys
import threading

from jax_pix2pix.errors import EXIT_INTERRUPTED, EXIT_RESTART

JOIN_SECONDS = 60  # for which a process that is to stop tries to come to the others
STOP = (signal.SIGTERM, signal.SIGUSR1)
# Each tells of other processes, by some launcher.
VARIABLES = (
    "JAX_NUM_PROCESSES", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES",
    "MEGASCALE_NUM_SLICES",
)  # fmt: skip
TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")  # whose neighbours only Google's metadata name

_stop = threading.Event()
_sockets, _heard = None, ()  # while signals are heard


def hear(stops):
    """Begins to hear SIGINT and, if `stops`, the signals of STOP; not those that are ignored."""
    global _sockets, _heard
    _sockets, _heard = socket.socketpair(), (signal.SIGINT, *(STOP if stops else ()))
    _sockets[1].setblocking(False)
    signal.set_wakeup_fd(_sockets[1].fileno(), warn_on_full_buffer=False)
    for number in _heard:
        # A shell starts what runs in its background deaf to SIGINT.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _heard_by_the_thread)
    threading.Thread(target=_listen, args=(_sockets[0],), daemon=True).start()


def imported():
    """Ends hearing in a command that meets no other processes."""
    if not set(STOP) & set(_heard):
        settle()


def settle():
    """Ends hearing: what comes now is for others' handlers. -> whether the process is to stop."""
    global _sockets, _heard
    if _sockets:
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGINT) is _heard_by_the_thread:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _sockets[1].close()
        _sockets, _heard = None, ()
    return _stop.is_set()


def _heard_by_the_thread(*_):
    pass


def _listen(signals):
    while (heard := signals.recv(1)) and heard[0] not in STOP:
        if heard[0] == signal.SIGINT:
            _end("interrupted", EXIT_INTERRUPTED)
    if not heard:
        return
    if not _may_have_others():
        _end("stopped on request before training began: nothing to save", EXIT_RESTART)
    _stop.set()
    threading.Event().wait(JOIN_SECONDS)
    if _sockets:
        _end("stopped on request before the other processes came: nothing to save", EXIT_RESTART)


def _may_have_others():
    return (
        any("num_processes" in argument for argument in sys.orig_argv)
        or any(map(os.environ.get, VARIABLES))
        or any(map(os.path.exists, TPU_DEVICES))
    )


def _end(message, code):
    os.write(2, f"error: {message}\n".encode())  # sys.stderr may be locked by the main thread
    os._exit(code)
