"""Runs whose processes share no folder, and processes that read a folder without the others."""

import time
from pathlib import Path

import jax
import numpy as np

from jax_pix2pix.runs.processes.first_process import exchange, on_first_process
from jax_pix2pix.safety import safe_files


def are_apart(directory):
    """Whether some process does not see the directory of process 0; all get the same answer."""
    if jax.process_count() == 1:
        return False
    number = exchange(time.time_ns(), _first)
    mark = Path(directory) / f".seen-{number}"

    on_first_process(lambda: safe_files.write(mark, "", below=mark.parent.parent))
    seen = exchange(mark.exists(), all)
    on_first_process(mark.unlink)
    return not seen


def as_numpy(abstract):
    """Arrays of NumPy with these shapes and types, which take no memory.

    Orbax refuses arrays on the devices of one process among several.
    """
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), abstract)


def place_on_devices(state, abstract):
    """Places arrays of NumPy, the same on every process, as ``abstract`` says."""

    def place(values, like):
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: values[part])

    return jax.tree.map(place, state, abstract)


def of_first_process(step):
    """The step number, or None, that process 0 has found."""
    return exchange(step, _first)


def _first(values):
    return values[0]
