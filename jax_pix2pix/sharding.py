"""Where arrays live: a ``data`` x ``fsdp`` mesh over all devices of all processes.

Batches are split over both axes. Parameters and optimiser state are replicated over ``data`` and,
with fsdp > 1, split over ``fsdp`` along the larger of their last two dimensions. In a kernel these
are the channels: XLA (jax 0.10) computes wrong gradients of strided convolutions whose kernel is
split in space. jit inserts the collectives.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_pix2pix.errors import ConfigError


def make_mesh(fsdp, batch_size, devices=None, of=None, accumulate=1):
    """The mesh over the first ``devices`` devices, or over all.

    Args:
        of: the devices to choose from, such as a topology's; defaults to jax.devices().
        accumulate: parts of a batch, each of which is split over all devices.

    Raises:
        ConfigError: there are fewer devices, fsdp does not divide their number, or their number
            times accumulate does not divide batch_size.
    """
    present = jax.devices() if of is None else of
    devices = devices or len(present)
    if devices > len(present):
        raise ConfigError(
            f"{devices} devices asked for, {len(present)} present: use at most {len(present)}"
        )
    if devices % fsdp:
        raise ConfigError(f"config.fsdp={fsdp} does not divide the {devices} devices")
    if batch_size % (devices * accumulate):
        parts = f" in {accumulate} accumulated parts" if accumulate > 1 else ""
        raise ConfigError(
            f"config.data.batch_size={batch_size} does not divide over {devices} devices{parts}: "
            f"use a multiple of {devices * accumulate}"
        )
    # By process, so that each feeds neighbouring rows of a batch. By slice of TPUs, so that only
    # means of gradients cross the slow network between these.
    chosen = sorted(present[:devices], key=lambda d: (_slice(d), d.process_index, d.id))
    of_slice = devices // len(set(map(_slice, chosen)))
    if of_slice % fsdp:
        raise ConfigError(f"config.fsdp={fsdp} does not divide the {of_slice} devices of a slice")
    # Explicit axes, the default, do not allow dropout.
    return Mesh(
        np.reshape(chosen, (devices // fsdp, fsdp)),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def _slice(device):
    return getattr(device, "slice_index", 0)


def replicated(mesh):
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def stacked_batch_sharding(mesh):
    """The sharding of batches with a leading axis of steps, which is not split."""
    return NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))


def state_shardings(mesh, abstract_state):
    """A pytree of NamedSharding like ``abstract_state``, a pytree of shapes."""
    fsdp = mesh.shape["fsdp"]

    def shard(array):
        divisible = [size if size % fsdp == 0 else 0 for size in array.shape[-2:]]
        if fsdp == 1 or not any(divisible):
            return replicated(mesh)
        axis = max(array.ndim - 2, 0) + int(np.argmax(divisible))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(shard, abstract_state)


def with_shardings(abstract, shardings):
    """Adds the placement to shapes and types, as lowering and restoring need it."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def placed(tree, shardings):
    """Makes global arrays, placed as ``shardings`` says, of arrays that every process has whole.

    Arrays that are already placed so are kept; a process may have only a part of these.
    """

    def place(array, sharding):
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree, shardings)


def host_rows(mesh, batch_size):
    """Which rows of a global batch this process feeds: (part, parts).

    It is read from the sharding, as a mesh may be over some of the devices.
    """
    sharding = batch_sharding(mesh)
    rows = sorted(
        index[0].indices(batch_size)[:2]
        for index in sharding.addressable_devices_indices_map((batch_size,)).values()
        if index is not None
    )
    start, stop = rows[0][0], rows[-1][1]
    if stop - start != sum(b - a for a, b in rows):
        raise ConfigError("this process's devices do not hold neighbouring rows of the batch")
    return start // (stop - start), batch_size // (stop - start)


def to_global(batch, mesh):
    """This process's rows {name: NumPy array} -> global arrays over the mesh."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
