"""One flipped bit in one of eight devices' copies is found and named."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix import sharding
from jax_pix2pix.errors import TrainingError
from jax_pix2pix.runs.processes.replicas import Replicas, checksum
from tests.faults.flipped import flip


def _state(fsdp):
    """A tree of arrays of every type that a state has, over eight devices."""
    mesh = sharding.make_mesh(fsdp, 8)
    rng = np.random.default_rng(0)
    state = {
        "count": np.int32(3),
        "kernel": rng.normal(size=(3, 3, 4, 6)).astype(np.float32),
        "moment": rng.normal(size=(6,)).astype(jnp.bfloat16),
        "zero": np.array([0.0, -0.0, np.nan], np.float32),
    }
    shardings = sharding.state_shardings(mesh, state)
    return sharding.placed(state, shardings), Replicas(mesh, shardings), mesh


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_equal_copies(fsdp):
    state, replicas, _ = _state(fsdp)
    replicas.check(state, 0)


@pytest.mark.parametrize("name", ["count", "kernel", "moment", "zero"])
@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_flipped_bit_is_named(fsdp, name):
    state, replicas, mesh = _state(fsdp)
    device = mesh.devices.flat[5]
    state[name] = flip(state[name], device, place=1)
    with pytest.raises(TrainingError) as found:
        replicas.check(state, 7)
    split = fsdp > 1 and name in ("kernel", "moment")
    assert (
        f"step 7: the copies of {name} differ: {3 if split else 7} are equal, but not that of "
        f"device {device.id} of process 0 ("
    ) in str(found.value)


def test_several_arrays_and_devices_and_no_majority():
    state, replicas, mesh = _state(1)
    for device in mesh.devices.flat[:4]:
        for name in ("kernel", "moment"):
            state[name] = flip(state[name], device)
    with pytest.raises(TrainingError) as found:
        replicas.check(state, 7)
    assert "copies of kernel and 1 more arrays differ: each is held by as many" in str(found.value)


def test_any_bit_and_any_exchange_of_two_words_changes_a_checksum(float64):
    for kind in (np.float32, np.float64, np.int8, jnp.bfloat16, bool):
        array = np.array([0, 1, 1, 0, 1], kind)
        exchanged = array[[1, 0, 2, 3, 4]]
        assert checksum(jnp.asarray(array)) != checksum(jnp.asarray(exchanged)), kind
        for place in range(8 * array.nbytes if kind is not bool else 0):
            changed = array.copy()
            changed.view(np.uint8)[place // 8] ^= 1 << place % 8
            assert checksum(jnp.asarray(array)) != checksum(jnp.asarray(changed)), (kind, place)
