"""Names the process of a run that was lost: JAX aborts the others without saying which it was.

Each process writes a number into JAX's store of keys every few seconds. The first one reads all of
them, and writes who is silent for the others to read. JAX alone decides that one is lost, by
heartbeats of its own; a child of this process, which outlives its abort, then says in one line
whose numbers stayed away (`witness.py`).
"""

import contextlib
import faulthandler
import json
import os
import socket
import subprocess
import sys
import threading
import time

import jax
from jax._src import distributed

from jax_pix2pix.logs.process_log import log_path

SIGNS = 10  # of life in the seconds of a heartbeat
MISSED = 3  # of these, after which a process is the one that was lost
_hosts = {}  # {process: its host}
_silent = threading.Event()
_pipe, _lost = -1, ""  # to the child


def meet(stop, seconds):
    """Tells all processes this one's host. -> the processes that were asked to stop, in words.

    Args:
        stop: whether this process was asked to stop.
        seconds: for which all wait for all.
    """
    client, me = distributed.global_state.client, distributed.global_state.process_id
    own = json.dumps({"host": socket.gethostname(), "stop": stop})
    client.key_value_set(f"met/{me}", own)
    client.wait_at_barrier("met", seconds * 1000)
    met = {_number(key): json.loads(value) for key, value in client.key_value_dir_get("met/")}
    _hosts.update({process: of["host"] for process, of in met.items()})
    return ", ".join(_named(process) for process, of in sorted(met.items()) if of["stop"])


def watch(heartbeat_seconds, host, port):
    """Begins to look for lost processes; call it after `meet`.

    Args:
        heartbeat_seconds: without a sign of life, after which JAX aborts.
        host, port: address of process 0.
    """
    global _pipe
    me = distributed.global_state.process_id
    first = [host, str(port), _named(0)] if me else []
    program = os.path.join(os.path.dirname(__file__), "witness.py")
    theirs, _pipe = os.pipe()
    subprocess.Popen([sys.executable, "-I", "-S", program, *first], stdin=theirs)
    os.close(theirs)
    faulthandler.enable(_pipe, all_threads=False)  # tells of the abort
    threading.Thread(target=_watch, args=(heartbeat_seconds / SIGNS,), daemon=True).start()


def log_to(workdir):
    """Names the workdir, in whose log of this process the lost one will be named."""
    if _pipe >= 0:
        rank = f"[{jax.process_index()}/{jax.process_count()}]"
        _tell(f"log {rank} {log_path(workdir, jax.process_index())}")


def lost(seconds):
    """Which process was lost, in words; "" if that is not clear after so many seconds."""
    _silent.wait(seconds)
    return _lost


def _watch(every):
    global _lost
    client, me = distributed.global_state.client, distributed.global_state.process_id
    seen, number = {}, 0  # {process: (its last number, when that was new)}
    while distributed.global_state.client is client:  # until JAX is shut down
        number += 1
        try:
            client.key_value_set(f"alive/{me}", str(number), allow_overwrite=True)
            if me == 0:
                lost = _longest_silent(client.key_value_dir_get("alive/"), seen, MISSED * every)
                client.key_value_set("silent/0", f"-{lost}", allow_overwrite=True)
            else:
                lost = "".join(name[1:] for _, name in client.key_value_dir_get("silent/"))
        except jax.errors.JaxRuntimeError:  # JAX is shut down, or about to abort
            return
        if lost != _lost:
            _lost = lost
            (_silent.set if lost else _silent.clear)()
            _tell(f"lost {lost}")
        time.sleep(every)


def _longest_silent(alive, seen, seconds):
    """The process whose number has not changed for so long, in words; "" if there is none."""
    now = time.monotonic()
    for key, value in alive:
        if seen.get(_number(key), ("",))[0] != value:
            seen[_number(key)] = value, now
    oldest = min(seen, key=lambda process: seen[process][1])
    return _named(oldest) if now - seen[oldest][1] > seconds else ""


def _named(process):
    return f"process {process} on {_hosts[process]}"


def _number(key):
    return int(key.rpartition("/")[2])


def _tell(line):
    with contextlib.suppress(OSError):  # the child was killed
        os.write(_pipe, f"{line}\n".encode(errors="surrogateescape"))
