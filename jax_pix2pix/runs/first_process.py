"""Lets one process of a run act for all of them, so that all go on or all refuse."""

import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jax_pix2pix.errors import ConfigError, UnreachableError, WorkdirError

_HOUR_MS = 3_600_000


def on_first_process(function):
    """Calls function() on process 0; every process raises its refusal.

    Returns:
        What it returned; None on the other processes.

    Raises:
        WorkdirError: function() raised it, a ConfigError, or an OSError that names a file, on
            process 0. JAX's cluster is then shut down, or the first process to end would abort the
            others before they can say why.
        UnreachableError: function() raised it on process 0.
        OSError: function() raised one that names no file; the caller must name it.
    """
    if jax.process_count() == 1:
        return function()
    result, refusal, number = None, "", 0
    if jax.process_index() == 0:
        try:
            result = function()
        except (ConfigError, WorkdirError, OSError) as error:
            refusal = str(error)
            if isinstance(error, OSError) and error.filename is None:
                number = error.errno or 0
            elif isinstance(error, UnreachableError):
                number = -1
    refusal = _of_first_process(refusal)
    if refusal:
        number = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
        jax.distributed.shutdown()
        if number < 0:
            raise UnreachableError(refusal)
        if number:
            raise OSError(number, os.strerror(number))
        raise WorkdirError(refusal)
    return result


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


def _of_first_process(text):
    """Process 0's text on every process."""
    # A collective gives up on a process that comes 30 s later than another; this barrier waits.
    ocp.multihost.get_barrier_sync_fn()(key="on_first_process", timeout_ms=_HOUR_MS)
    encoded = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(encoded.size)))
    if not size:
        return ""
    mine = encoded if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes().decode()
