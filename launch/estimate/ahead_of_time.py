"""Compiles a training step for TPUs that are not there, and estimates its cost on them."""

import importlib.util
import os
from importlib import metadata

import jax
import numpy as np
from jax.experimental import topologies

from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.fit import lower_step
from jax_pix2pix.runs import workdir
from launch.benchmark import measures
from launch.estimate import compiled_program, roofline

# Without these, libtpu looks for a TPU's metadata server, host names and lock, and logs it.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}


def devices(topology):
    """The devices of a chips.Topology, to compile for. JAX itself then runs on the CPU.

    Raises:
        BenchmarkError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise BenchmarkError(
            "compiling for TPUs needs libtpu: pip install -c constraints.txt -e '.[tpu]'"
        )
    jax.config.update("jax_platforms", "cpu")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    more = {"chips_per_host_bounds": [1, 1, 1]} if topology.chips == 1 else {}
    if topology.slices > 1:
        more = {"num_slices": topology.slices}
    return topologies.get_topology_desc(
        platform="tpu",
        topology_name=topology.slice_name,
        chip_config_name=topology.chip.config,
        **more,
    ).devices


def compile_step(config, topology):
    """Compiles the training step of config for a slice of TPUs, as training compiles it.

    Args:
        config: ConfigDict; its batch size is over all chips. A pyramid's step is that of
            config.pyramid.scale.
        topology: chips.Topology.

    Returns:
        Its figures as plain values, costs and memory per chip: {"batch_size", "chips", "memory",
        "cost", "collectives", "roofline", ...}.

    Raises:
        ConfigError: the config does not fit the slice.
        DoesNotFit: the program does not fit into a chip's memory.
    """
    if config.data.cache == "device":
        raise ConfigError(
            "config.data.cache=device: the size of the data set is not known here; use none"
        )
    if config.accumulate > 1:
        part = config.data.batch_size // config.accumulate
        raise ConfigError(
            f"config.accumulate={config.accumulate}: XLA counts one part only: compile a step of "
            f"one, with accumulate=1 and data.batch_size={part}"
        )
    if config.dtype not in topology.chip.flops:
        raise ConfigError(f"config.dtype={config.dtype}: TPUs have float32 and bfloat16")
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size, of=devices(topology))
    config = config.copy_and_resolve_references()
    config.steps_per_epoch = config.steps_per_epoch or 1000  # only for the learning rate
    system = workdir.build_system(config)
    lowered, _ = lower_step(system, config, mesh, workdir.abstract_state(system, config))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise compiled_program.out_of_memory(str(error)) from None
    text = compiled.as_text()
    return describe(
        topology,
        mesh,
        config,
        compiled_program.memory(compiled) | {"available": topology.chip.hbm},
        compiled_program.costs(compiled)
        | compiled_program.traffic(text)
        | {"flops_of_convolutions": measures.step_flops(system, config) / mesh.size},
        compiled_program.collectives(text, mesh.size // topology.slices, topology.slices),
    )


def describe(topology, mesh, config, memory, cost, collectives):
    """The figures that ``compile_step`` returns."""
    one_slice = list(mesh.devices.flat)[: topology.chips // topology.slices]
    places = np.array([device.coords for device in one_slice])
    network = roofline.Torus(topology, places[:, : len(topology.shape)])
    return {
        "system": config.system,
        "dtype": config.dtype,
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "mesh": dict(mesh.shape),
        "batch_size": config.data.batch_size,
        "batch_size_per_chip": config.data.batch_size // topology.chips,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "flax")},
        "memory": memory,
        "cost": cost,
        "collectives": [
            {
                "kind": c.kind,
                "bytes": c.bytes,
                "arrays": c.arrays,
                "times": c.times,
                "chips": c.group_size,
                "seconds": network.seconds(c),
            }
            for c in collectives
        ],
        "roofline": roofline.estimate(
            topology.chip,
            network,
            config.dtype,
            cost["flops"],
            cost["hbm_bytes"],
            collectives,
        ),
    }
