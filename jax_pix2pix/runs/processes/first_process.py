"""Lets the processes of a run decide together, so that all go on or all refuse.

They talk through JAX's coordinator and start no device. So processes whose devices or programs do
not fit each other, or do not start, can still tell each other so.
"""

import contextlib
import itertools
import json
import os
import socket
import time
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the coordinator's key-value store has no public name
from jax.experimental import multihost_utils

from jax_pix2pix.errors import (
    ConfigError,
    DataError,
    TrainingError,
    UnreachableError,
    WorkdirError,
)
from jax_pix2pix.runs.stores.storage import Unreachable

HOUR = 3600.0  # seconds; others may still copy or prepare data
REFUSING = 600.0  # for which a process that refuses waits for the others, which may be stuck
_KINDS = (UnreachableError, ConfigError, DataError, WorkdirError, TrainingError)
_NUMBERS = itertools.count()  # all processes exchange equally often, from their start on


def count():
    """The number of processes; `jax.process_count` would start the devices."""
    return distributed.global_state.num_processes or 1


def _index():
    return distributed.global_state.process_id or 0


def exchange(mine, decide) -> Any:
    """decide([mine of each process]), called on process 0, on every process.

    All processes call this together, or refuse instead (see `refusing_together`).

    Args:
        mine, and what decide returns: anything that JSON holds.

    Raises:
        what `refusing_together` raises for another process's refusal, of which decide's is one.
    """
    if count() == 1:
        return decide([mine])
    verdict = _meet({"value": mine}, decide, HOUR)
    if refusal := verdict.get("refusal"):
        jax.distributed.shutdown()
        raise verdict.get("raised") or _error(refusal)
    return verdict["value"]


@contextlib.contextmanager
def refusing_together(for_all=False):
    """Makes every process raise if the block raises on one; the blocks also end together.

    A block that raises does not reach the exchanges within it, nor at its end. The other processes
    get its refusal at whichever is their next one. Nothing else in a block may wait for others.

    Args:
        for_all: whether the refusal needs no name of a process, because it would be that of all.

    Raises:
        ConfigError, DataError, WorkdirError, UnreachableError, TrainingError: a block raised it.
            JAX's cluster is then shut down, or the first process to end would abort the others
            before they can say why.
        WorkdirError: a block raised an OSError that names a file.
        OSError: a block raised one that names no file; the caller must name it.
        TrainingError: a block failed in an unforeseen way on another process.
    """
    try:
        yield
    except Exception as error:
        if count() == 1 or distributed.global_state.client is None:
            raise  # in the latter case all processes have refused already
        report = _report(error, for_all)
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # others are lost or stuck
            _meet({"refusal": report}, None, REFUSING)
            jax.distributed.shutdown()
        if report["kind"] == type(error).__name__ or report["unforeseen"]:
            raise
        raise _error(report | {"process": None}) from error
    exchange(None, lambda _: None)


def on_first_process(function):
    """Calls function() on process 0; every process raises its refusal.

    Returns:
        What it returned; None on the other processes.

    Raises:
        as `refusing_together`.
    """
    with refusing_together(for_all=True):
        return function() if _index() == 0 else None


def collected(key, mine):
    """[mine of each process] on process 0, once all have called this; None on the others at once.

    Unlike `exchange` it may be called from any thread, once with each key.
    """
    client = distributed.global_state.client
    if _index():
        client.key_value_set(f"{key}/{_index()}", json.dumps(mine))
        return None
    milliseconds = int(1000 * HOUR)
    others = (
        client.blocking_key_value_get(f"{key}/{number}", milliseconds)
        for number in range(1, count())
    )
    return [mine, *map(json.loads, others)]


def arrays_of_first_process(tree, like) -> Any:
    """Process 0's arrays on every process, as NumPy arrays if there are several processes.

    Args:
        tree: pytree of arrays; only that of process 0 counts.
        like: pytree of the same structure, with their shapes and types.
    """
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(like)
    mine = [np.zeros(x.shape, x.dtype) for x in leaves]
    if jax.process_index() == 0:
        mine = [np.asarray(x) for x in structure.flatten_up_to(tree)]
    return structure.unflatten(multihost_utils.broadcast_one_to_all(mine))


def _meet(message, decide, seconds) -> Any:
    """Gives process 0 this process's message. -> its verdict, {"value"} or {"refusal"}.

    On process 0 that of a decide that raised holds its error as "raised" too.
    """
    return meet(
        distributed.global_state.client,
        _index(),
        count(),
        f"jax_pix2pix/{next(_NUMBERS)}",
        message,
        decide,
        seconds,
    )


def meet(client, process, processes, key, message, decide, seconds) -> Any:
    """As `_meet`, with the coordinator's client and this process's place among the others."""
    end = time.monotonic() + seconds

    def get(name):
        left = max(end - time.monotonic(), 0.001)
        return json.loads(client.blocking_key_value_get(f"{key}/{name}", int(1000 * left)))

    if process:
        client.key_value_set(f"{key}/{process}", json.dumps(message))
        return get("verdict")
    messages = [message, *(get(number) for number in range(1, processes))]
    refusals = [
        other["refusal"] | {"process": number}
        for number, other in enumerate(messages)
        if "refusal" in other
    ]
    if refusals:
        verdict, raised = {"refusal": refusals[0]}, {}
    else:
        verdict, raised = _decided(decide, [other["value"] for other in messages])
    client.key_value_set(f"{key}/verdict", json.dumps(verdict))
    return verdict | raised


def _decided(decide, values):
    """-> (verdict, {"raised": the error} if decide raised one, which the others must hear)."""
    try:
        value = decide(values)
        json.dumps(value)
        return {"value": value}, {}
    except Exception as error:
        return {"refusal": _report(error, for_all=True) | {"process": 0}}, {"raised": error}


def _report(error, for_all):
    """What the other processes need to raise the like of an error."""
    kind, number, unforeseen = "TrainingError", 0, False
    if isinstance(error, Unreachable):
        kind = "UnreachableError"
    elif isinstance(error, _KINDS):
        kind = next(known.__name__ for known in _KINDS if isinstance(error, known))
    elif isinstance(error, OSError) and error.filename is not None:
        kind = "WorkdirError"
    elif isinstance(error, OSError):
        kind, number = "OSError", error.errno or 0
    else:
        unforeseen = True
    text = f"failed with {type(error).__name__}: {error}" if unforeseen else str(error)
    return {
        "kind": kind, "text": text, "errno": number, "unforeseen": unforeseen,
        "host": socket.gethostname(), "for_all": for_all,
    }  # fmt: skip


def _error(report):
    """The error of a report; it names the process if that matters to the others."""
    if report["kind"] == "OSError":
        return OSError(report["errno"], os.strerror(report["errno"]))
    text = report["text"]
    if report["process"] is not None and (report["unforeseen"] or not report["for_all"]):
        text = f"process {report['process']} ({report['host']}): {text}"
    return next(kind for kind in _KINDS if kind.__name__ == report["kind"])(text)
