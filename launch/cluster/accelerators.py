"""Accelerators that `launch.submit --accelerator` accepts, and each platform's names for them.

TPU slices have Google's names: v5e-256 and v6e-256 count chips, v4-512 and v5p-512 cores, two per
chip. A slice of v5e or v6e of up to eight chips is one host, in machines ct5lp-hightpu-8t and
ct6e-standard-8t for instance; in any larger slice, and in each of v4 and v5p, a host has four. The
topology 2x4 may also be two hosts of four chips, as node pools of xpk are: `of_four`. Google
Cloud's names come from its documentation "Plan TPUs in GKE" (node selectors, machines) and "TPU
configurations" (accelerator types, runtime versions). GPUs are KIND:NUMBER per node, h100:8 for
instance; CPUs are cpu:DEVICES per process.
"""

import dataclasses
import math
import re

from jax_pix2pix.errors import ConfigError
from launch.estimate import chips

EXAMPLES = "v5e-256, v5p-512, h100:8 or cpu:2"


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """One slice of TPUs, with one process per host.

    accelerator_type, runtime: of a TPU VM. node_selector: of GKE.
    """

    topology: str
    chips: int
    chips_per_host: int
    accelerator_type: str
    runtime: str
    node_selector: str

    @property
    def hosts(self):
        return self.chips // self.chips_per_host


@dataclasses.dataclass(frozen=True)
class Gpus:
    """GPUs of a node; node_selector: of GKE, None where it has no such GPU."""

    kind: str
    per_node: int
    node_selector: str | None


@dataclasses.dataclass(frozen=True)
class Cpus:
    """Number of devices that a process makes of its CPUs."""

    devices: int


# name -> (accelerator type of a TPU VM, its runtime version, node selector of GKE, cores per chip
# as the name counts)
_TPUS = {
    "v4": ("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", 2),
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1),
    "v5p": ("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", 2),
    "v6e": ("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", 1),
}
_GPUS = {
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h100-mega": "nvidia-h100-mega-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
    "l4": "nvidia-l4",
    "gpu": None,  # whatever the cluster has
}


def accelerator(name, any_gpu=False):
    """ "v5e-256" -> TpuSlice, "h100:8" -> Gpus, "cpu:2" -> Cpus.

    Args:
        any_gpu: whether a GPU may have any name, as each Slurm site gives its own.

    Raises:
        ConfigError: there is no accelerator or slice of that name.
    """
    match = re.fullmatch(r"(v\d\w*)-(\d+)", name, re.ASCII)
    if match and match[1] in _TPUS:
        return _tpu_slice(name, match[1], int(match[2]))
    match = re.fullmatch(r"(\w[\w.-]*):([1-9]\d*)", name, re.ASCII)
    if match and match[1] == "cpu":
        return Cpus(int(match[2]))
    if match and (match[1] in _GPUS or any_gpu):
        return Gpus(match[1], int(match[2]), _GPUS.get(match[1]))
    kinds = ", ".join(["cpu", *_GPUS])
    raise ConfigError(
        f"--accelerator={name} is unknown: use e.g. {EXAMPLES}; TPUs {', '.join(_TPUS)}, "
        f"others {kinds}"
    )


def _tpu_slice(name, kind, size):
    vm_type, runtime, selector, cores = _TPUS[kind]
    count = size // cores
    shape = _shape(chips.TPUS[kind], count) if count * cores == size else None
    if shape is None:
        raise ConfigError(
            f"--accelerator={name}: there is no slice of that size; {kind}-N counts "
            f"{'cores, two a chip' if cores == 2 else 'chips'}"
        )
    topology = "x".join(map(str, shape))
    per_host = count if chips.TPUS[kind].axes == 2 and count <= 8 else min(4, count)
    return TpuSlice(topology, count, per_host, f"{vm_type}-{size}", runtime, selector)


def of_four(device):
    """The same slice on hosts of at most four chips."""
    return dataclasses.replace(device, chips_per_host=min(4, device.chips_per_host))


def _shape(chip, count):
    """The shape of the most compact slice with `count` chips, or None."""
    if chip.axes == 2:
        return next((shape for shape in chips.FLAT if math.prod(shape) == count), None)
    small = next((shape for shape in chips.SMALL_CUBOIDS if math.prod(shape) == count), None)
    if small or count % 64 or count > chip.most:
        return small
    cubes = count // 64  # sides are multiples of four
    divisors = [side for side in range(1, cubes + 1) if cubes % side == 0]
    shapes = [
        (a, b, cubes // (a * b))
        for a in divisors
        for b in divisors
        if cubes % (a * b) == 0 and a <= b <= cubes // (a * b)
    ]
    return tuple(4 * side for side in min(shapes, key=sum))
