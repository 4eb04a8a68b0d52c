"""Runs whose processes share no folder, such as hosts with only an object store.

Process 0 then saves the whole state for all, and each process restores it from a copy of its own.
"""

import time
from pathlib import Path

import jax
import numpy as np

from jax_pix2pix.errors import WorkdirError
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


def gather_to_host(state):
    """The state as NumPy arrays, from the parts that this process's devices hold.

    Orbax refuses arrays on the devices of one process among several.

    Raises:
        WorkdirError: they do not hold all of it.
    """
    return jax.tree.map(_whole, state)


def _whole(array):
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    result, found = np.empty(array.shape, array.dtype), {}
    for shard in array.addressable_shards:
        result[shard.index] = shard.data
        found[str(shard.index)] = shard.data.size
    if sum(found.values()) < array.size:
        raise WorkdirError(
            "parameters are split over several hosts, which have no common folder for a "
            "checkpoint: use config.fsdp of the devices of one host or fewer, or a shared folder"
        )
    return result


def as_numpy(abstract):
    """Arrays with the shapes and types of `gather_to_host`'s; they take no memory."""
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), abstract)


def place_on_devices(state, abstract):
    """Places the result of `gather_to_host`, the same on every process, as ``abstract`` says."""

    def place(values, like):
        return jax.make_array_from_callback(like.shape, like.sharding, lambda part: values[part])

    return jax.tree.map(place, state, abstract)


def of_first_process(step):
    """The step number, or None, that process 0 has found."""
    return exchange(step, _first)


def _first(values):
    return values[0]
