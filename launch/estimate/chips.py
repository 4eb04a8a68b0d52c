"""Peak figures of accelerators, from their makers' documents, and how they are wired.

TPU, per chip: Google Cloud documentation, "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e"
(cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e), which give the peak in bfloat16, the capacity and
rate of HBM, the rate of all links of a chip (1600 Gbit/s of v5e, 4800 of v5p, 3200 of v6e, in each
direction) and the shapes of slices. The links of v4, six of 50 GB/s, are in table 4 of Jouppi et
al., "TPU v4: An Optically Reconfigurable Supercomputer for Machine Learning with Hardware Support
for Embeddings", ISCA 2023 (arXiv:2304.01433). A program may use less HBM than a chip's capacity,
as the compiler keeps some back: the figure is the one in the refusals of libtpu 0.0.42.1.

H100 SXM: NVIDIA, "NVIDIA H100 Tensor Core GPU" (nvidia.com/en-us/data-center/h100). Its tensor core
peaks are with sparsity, which doubles them; its 900 GB/s of NVLink count both directions. Eight
GPUs share a node, each with an InfiniBand port of 400 Gbit/s: NVIDIA, "DGX BasePOD Reference
Architecture", core components (docs.nvidia.com/dgx-basepod).
"""

import dataclasses
import math
import re

from jax_pix2pix.errors import ConfigError

GIB = 2**30


def gib(size):
    """A number of bytes in GiB, as text."""
    return f"{size / GIB:.2f}"


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one accelerator.

    flops: operations per second for each config.dtype. Matrix units of a TPU round float32 to
        bfloat16, those of a GPU to TF32, unless jax_default_matmul_precision says otherwise.
    hbm: bytes that a program may use.
    hbm_rate: bytes per second.
    link_rate: bytes per second in one direction: for a TPU of one link to a neighbour, for a GPU
        of all its links to its node.
    """

    name: str
    flops: dict[str, float]
    hbm: int
    hbm_rate: float
    link_rate: float


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
    """A chip of a torus.

    axes: number of axes of the torus; a chip has two links along each.
    most: number of chips in the largest slice.
    config: libtpu's name for how the cores of a chip are used.
    network_rate: bytes per second of each chip to other slices, in one direction: a share of what
        the pod has to the data centre's network. None where that is not published.
    """

    axes: int
    most: int
    config: str = "default"
    network_rate: float | None = None

    def closed(self, size):
        """Whether an axis of `size` chips is a ring: 16 on v5e and v6e, else multiples of four."""
        return size == 16 if self.axes == 2 else size % 4 == 0


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """A chip of a node, in which one switch joins all chips.

    node: number of chips per node.
    network_rate: bytes per second of each chip to other nodes, in one direction.
    """

    node: int
    network_rate: float


def _alike(flops):
    return {"bfloat16": flops, "float32": flops}


TPUS = {
    "v4": Tpu("TPU v4", _alike(275e12), int(30.75 * GIB), 1200e9, 50e9, 3, 4096,
              "megacore"),  # its two cores are one device
    "v5e": Tpu("TPU v5e", _alike(197e12), int(15.75 * GIB), 819e9, 50e9, 2, 256,
               network_rate=6.4e12 / 8 / 256),
    "v5p": Tpu("TPU v5p", _alike(459e12), int(95.74 * GIB), 2765e9, 100e9, 3, 6144),
    "v6e": Tpu("TPU v6e", _alike(918e12), int(31.25 * GIB), 1600e9, 100e9, 2, 256,
               network_rate=25.6e12 / 8 / 256),
}  # fmt: skip
H100 = Gpu("H100 SXM", {"bfloat16": 989e12, "float32": 494e12}, 80 * 10**9, 3350e9, 450e9, 8, 50e9)

FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
SMALL_CUBOIDS = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # else all sides are multiples of four
EXAMPLES = "v5e:2x2, v5e:16x16, v4:2x2x1, v5p:4x8x8, or 2xv6e:8x8 for two slices"


@dataclasses.dataclass(frozen=True)
class Topology:
    """One slice of TPUs or several equal ones: its chip, and the chips along each axis of one."""

    name: str
    chip: Tpu
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def slice_name(self):
        """The name of one slice."""
        return self.name.removeprefix(f"{self.slices}x")

    @property
    def chips(self):
        return self.slices * math.prod(self.shape)


def topology(name):
    """ "v5e:2x2", or "2xv5e:2x2" for two such slices -> Topology.

    Raises:
        ConfigError: there is no such slice.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(v\w+):(\d+(?:x\d+)+)", name)
    if not match or match[2] not in TPUS:
        raise ConfigError(f"--topology={name} is unknown: use e.g. {EXAMPLES}")
    chip, shape = TPUS[match[2]], tuple(int(size) for size in match[3].split("x"))
    slices = int(match[1] or 1)
    if slices > 1 and chip.network_rate is None:
        raise ConfigError(
            f"--topology={name}: the rate between slices of {chip.name} is not published, so that "
            "a step's time cannot be estimated: use one slice"
        )
    if chip.axes == 2:
        if shape not in FLAT:
            known = ", ".join("x".join(map(str, sizes)) for sizes in FLAT)
            raise ConfigError(f"--topology={name}: {chip.name} has the shapes {known}")
    elif len(shape) != 3 or (
        shape not in SMALL_CUBOIDS
        and (any(size % 4 or not size for size in shape) or math.prod(shape) > chip.most)
    ):
        known = ", ".join("x".join(map(str, sizes)) for sizes in SMALL_CUBOIDS)
        raise ConfigError(
            f"--topology={name}: {chip.name} has the shapes {known}, and AxBxC of multiples of "
            f"four up to {chip.most} chips"
        )
    return Topology(name, chip, shape, slices)
