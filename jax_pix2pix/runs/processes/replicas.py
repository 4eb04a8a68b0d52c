"""Whether all devices still hold the same state, to the bit.

Each device trains its own copy of the parameters. A faulty one, or a process that has diverged,
goes on unnoticed: gradients are summed over all, and a checkpoint is written from one copy.
"""

import collections
import socket

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jax_pix2pix.errors import TrainingError
from jax_pix2pix.runs.processes.first_process import exchange
from jax_pix2pix.sharding import replicated

SHOWN = 4  # devices named in a message


class Replicas:
    """Compares the copies of a state, a pytree of arrays placed as ``shardings`` says.

    Every device makes a checksum of each of its arrays, and one all-gather brings all to every
    process. A single changed bit always changes the checksum. Split arrays are compared among the
    devices that hold the same part.
    """

    def __init__(self, mesh, shardings):
        self._mesh = mesh
        leaves, _ = jax.tree_util.tree_flatten_with_path(shardings)
        self._names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
        specs = tuple(sharding.spec for _, sharding in leaves)
        self._split = np.array(["fsdp" in spec for spec in specs])

        def own(*arrays):
            return jnp.stack([checksum(x) for x in arrays])[None]

        self._checksums = jax.jit(
            jax.shard_map(
                own,
                mesh=mesh,
                in_specs=specs,
                out_specs=PartitionSpec(("data", "fsdp")),
                check_vma=False,
            ),
            out_shardings=replicated(mesh),
        )

    def check(self, state, step):
        """Raises TrainingError on all processes, which call this together, if copies differ."""
        if self._mesh.size == 1:
            return
        found = np.asarray(jax.device_get(self._checksums(*jax.tree.leaves(state))))
        rows = found.reshape(*self._mesh.devices.shape, -1)  # [data, fsdp, arrays]
        # Split arrays have a group of copies for each place along fsdp, others a single group.
        wrong = (rows != rows[:1]) & self._split | (rows != rows[:1, :1]) & ~self._split
        if not wrong.any():
            return
        hosts = exchange(socket.gethostname(), list)
        arrays = np.flatnonzero(wrong.any((0, 1)))
        group = wrong[..., arrays[0]].any(0) if self._split[arrays[0]] else slice(None)
        copies = rows[:, group, arrays[0]].reshape(-1)
        devices = self._mesh.devices[:, group].reshape(-1)
        more = f" and {len(arrays) - 1} more arrays" if len(arrays) > 1 else ""
        raise TrainingError(
            f"step {step}: the copies of {self._names[arrays[0]]}{more} differ: "
            f"{_odd(copies.tolist(), devices, hosts)}. A device computes wrongly, or processes run "
            "other programs. This step is not saved: leave that device or its host out and start "
            "again, which goes on from the last checkpoint"
        )


def checksum(array):
    """The sum of an array's bits times their places, as uint32."""
    if array.dtype == bool:
        words = array.astype(jnp.uint32)
    else:
        kind = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
    words = words.reshape(-1)
    # An odd number times a change of one word is never 0.
    places = 2 * jax.lax.iota(jnp.uint32, words.size) + 1
    return jnp.sum(words * places, dtype=jnp.uint32)


def _odd(copies, devices, hosts):
    """Names the devices whose copies are not what most have."""
    counts = collections.Counter(copies).most_common()
    tie = len(counts) > 1 and counts[0][1] == counts[1][1]
    odd = [
        device for copy, device in zip(copies, devices, strict=True)
        if tie or copy != counts[0][0]
    ]  # fmt: skip
    named = ", ".join(
        f"device {device.id} of process {device.process_index} ({hosts[device.process_index]})"
        for device in odd[:SHOWN]
    )
    more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
    if tie:
        return f"each is held by as many of {named}{more}"
    return f"{len(copies) - len(odd)} are equal, but not that of {named}{more}"
