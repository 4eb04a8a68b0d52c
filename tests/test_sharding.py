"""Placement on eight CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jax_pix2pix import sharding
from jax_pix2pix.errors import ConfigError


def test_mesh_shape_and_refusals():
    assert dict(sharding.make_mesh(2, 16).shape) == {"data": 4, "fsdp": 2}
    with pytest.raises(ConfigError, match="fsdp=3 does not divide the 8 devices"):
        sharding.make_mesh(3, 16)
    with pytest.raises(ConfigError, match="batch_size=12 does not divide over 8 devices"):
        sharding.make_mesh(1, 12)


def test_fsdp_shards_the_larger_divisible_one_of_the_last_two_dimensions():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((4, 4, 6, 9), jnp.float32),
        "few channels": jax.ShapeDtypeStruct((4, 4, 2, 2), jnp.float32),
        "odd channels": jax.ShapeDtypeStruct((4, 4, 1, 3), jnp.float32),
        "bias": jax.ShapeDtypeStruct((6,), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 5), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = jax.tree.map(
        lambda s: s.spec, sharding.state_shardings(sharding.make_mesh(2, 16), shapes)
    )
    assert specs == {
        "kernel": PartitionSpec(None, None, "fsdp"),
        "few channels": PartitionSpec(None, None, "fsdp"),
        "odd channels": PartitionSpec(),
        "bias": PartitionSpec("fsdp"),
        "odd": PartitionSpec(),
        "step": PartitionSpec(),
    }
    replicated = sharding.state_shardings(sharding.make_mesh(1, 16), shapes)
    assert all(s.spec == PartitionSpec() for s in jax.tree.leaves(replicated))


def test_batches_are_split_over_all_devices():
    mesh = sharding.make_mesh(2, 16)
    batch = sharding.to_global({"source": np.arange(16)}, mesh)["source"]
    np.testing.assert_array_equal(batch, np.arange(16))
    assert sorted(s.data.tolist() for s in batch.addressable_shards) == [
        [i, i + 1] for i in range(0, 16, 2)
    ]
    assert sharding.host_rows(mesh, 16) == (0, 1)
