"""Estimates how a compiled training step scales to more chips, as Markdown tables.

    python -m launch.compile --config=… --topology=v5e:2x2 --output=64.json
    python -m launch.compile … --config.data.batch_size=32 --output=8.json
    python -m launch.scaling --programs=64.json,8.json

Without fsdp, a step reduces the gradients and a few scalars over all chips, whatever the number of
chips and the batch (`launch.check_scaling` checks it). So one program is enough for any slice. Weak
scaling keeps the images per chip of a row's first program. Strong scaling keeps the global batch:
operations and bytes lie on the line through two programs of different batches. A row takes the
programs compiled for its chip. If there are none, it takes the first ones, and the operations and
bytes are those of another chip's compiler. GPUs have no on-chip memory that holds whole images, so
their rows count the bytes of all operands, whichever memory of the TPU they lie in.
"""

import math

import jax
import ml_collections
import numpy as np
from absl import flags

from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.runs.workdir import example_batch
from jax_pix2pix.safety import safe_files
from launch.estimate import chips, roofline
from launch.estimate.compiled_program import Collective
from launch.process import command

_PROGRAMS = flags.DEFINE_list("programs", None, "JSON files of launch.compile", required=True)
_GLOBAL_BATCH = flags.DEFINE_integer("global_batch", 1024, "global batch of strong scaling", 1)
_INPUT_RATE = flags.DEFINE_float(
    "input_rate", 16776, "examples per CPU second, as launch.benchmark.input prints it", 0
)
_SCANS = flags.DEFINE_integer("scans", 1_000_000, "scans in the data set of the last table", 1)
_EXAMPLES = flags.DEFINE_integer("examples_per_scan", 100, "examples per scan", 1)

SLICES = (
    "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16", "v5p:4x8x8",
)  # fmt: skip
GPUS = (8, 16, 32, 64, 128, 256)


def main():
    programs = [read(path) for path in _PROGRAMS.value]
    first = programs[0]
    print(
        f"{first['system']}, {first['dtype']}; "
        + ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    )
    for program in programs:
        print(
            f"compiled for {program['topology']}, {program['batch_size_per_chip']} images a chip: "
            f"{program['cost']['flops'] / 1e9:.1f} GFLOP, "
            f"{program['cost']['hbm_bytes'] / 1e9:.2f} GB from and to HBM, "
            f"{program['cost']['operand_bytes'] / 1e9:.2f} GB of operands, "
            f"{_reduced(program) / 1e6:.3f} MB in {len(program['collectives'])} all-reduces"
        )
    print(f"\nWeak scaling, {first['batch_size_per_chip']} images a chip\n\n{weak(programs)}")
    lines = [Line(*pair) for pair in pairs(programs)]
    if lines:
        print(f"\nStrong scaling, global batch {_GLOBAL_BATCH.value}\n\n{strong(lines)}")
        print(f"\nMemory of a chip\n\n{memory(lines)}")
    print(f"\n{_SCANS.value:,} scans of {_EXAMPLES.value} examples\n\n{data(programs)}")


def read(path):
    """Reads a program whose collectives each span all its chips.

    Raises:
        BenchmarkError: the file is no program, or the program is split over fsdp.
    """
    try:
        program = safe_files.read_json(path)
        split = program["mesh"]["fsdp"] > 1 or any(
            c["chips"] != program["chips"] for c in program["collectives"]
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchmarkError(
            f"{path} is not a file of launch.compile --output ({error!r})"
        ) from None
    if split:
        raise BenchmarkError(
            f"{path}: its collectives are not all over all chips, so that other slices have "
            "others: compile one slice, with --config.fsdp=1"
        )
    return program


def pairs(programs):
    """Yields [program, program], the first two of each chip that has several.

    Raises:
        ConfigError: both have the same batch.
    """
    for chip in dict.fromkeys(program["chip"] for program in programs):
        alike = [program for program in programs if program["chip"] == chip]
        if len(alike) > 1:
            if alike[0]["batch_size_per_chip"] == alike[1]["batch_size_per_chip"]:
                raise ConfigError(f"--programs: the two of {chip} have the same batch")
            yield alike[:2]


def _reduced(program):
    return sum(c["times"] * c["bytes"] for c in program["collectives"])


class Line:
    """A chip's figures at any number of images: constant + slope * images, from two programs."""

    def __init__(self, one, other):
        self.program = one
        self._images = one["batch_size_per_chip"], other["batch_size_per_chip"]
        self._programs = one, other

    def coefficients(self, value):
        """(constant, slope) of value(program)."""
        (a, b), (y, z) = self._images, map(value, self._programs)
        slope = (y - z) / (a - b)
        return y - a * slope, slope

    def at(self, images, value):
        constant, slope = self.coefficients(value)
        return constant + slope * images


def slices(programs):
    """Yields (name, number of chips, chip, network, programs of that chip or all) for each row."""
    for name in SLICES:
        topology = chips.topology(name)
        places = np.array(list(np.ndindex(topology.shape)))
        network = roofline.Torus(topology, places)
        yield name, topology.chips, topology.chip, network, _of(topology.chip, programs)
    for count in GPUS:
        yield f"{count} H100", count, chips.H100, roofline.Nodes(chips.H100), programs


def _of(chip, programs):
    return [program for program in programs if program["chip"] == chip.name] or programs


def _bytes(chip, cost):
    return cost["operand_bytes" if chip is chips.H100 else "hbm_bytes"]


def _estimate(program, count, chip, network, flops, hbm_bytes):
    everyone = (tuple(range(count)),)
    collectives = [
        Collective(c["kind"], c["bytes"], c["arrays"], everyone, c["times"])
        for c in program["collectives"]
    ]
    return roofline.estimate(chip, network, program["dtype"], flops, hbm_bytes, collectives)


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def weak(programs):
    rows = []
    for name, count, chip, network, (program, *_) in slices(programs):
        cost = program["cost"]
        bound = _estimate(program, count, chip, network, cost["flops"], _bytes(chip, cost))
        images = program["batch_size_per_chip"]
        rate = images / bound["overlapped"]
        rows.append(
            [
                name,
                str(count),
                f"{count * images:,}",
                f"{1e3 * bound['compute']:.2f}",
                f"{1e3 * bound['memory']:.2f}",
                f"{1e3 * bound['communication']:.2f}",
                _range(bound, 1e3, ".2f", "overlapped", "not_overlapped"),
                f"{count * images / bound['not_overlapped']:,.0f} to {count * rate:,.0f}",
                _range(bound, 100, ".1f", "efficiency_not_overlapped", "efficiency_overlapped"),
                f"{rate:,.0f}",
                f"{rate / _INPUT_RATE.value:.2f}",
            ]
        )
    head = [
        "slice", "chips", "global batch", "compute, ms", "memory, ms", "communication, ms",
        "step, ms", "images/s", "efficiency, %", "images/s a chip at most",
        "CPU cores a chip for it",
    ]  # fmt: skip
    return _table(head, rows)


def _range(bound, factor, form, low, high):
    return f"{factor * bound[low]:{form}} to {factor * bound[high]:{form}}"


def strong(lines):
    rows, first = [], {}
    programs = [line.program for line in lines]
    for name, count, chip, network, (program, *_) in slices(programs):
        line = next(line for line in lines if line.program is program)
        images = _GLOBAL_BATCH.value / count
        flops = line.at(images, lambda p: p["cost"]["flops"])
        moved = line.at(images, lambda p, chip=chip: _bytes(chip, p["cost"]))
        bound = _estimate(program, count, chip, network, flops, moved)
        # Efficiency is relative to the smallest slice of that chip.
        start = first.setdefault(chip.name, (count, bound))
        efficiency = {
            key: start[0] * start[1][key] / (count * bound[key])
            for key in ("overlapped", "not_overlapped")
        }
        rows.append(
            [
                name,
                f"{images:g}",
                f"{1e3 * bound['communication']:.2f}",
                _range(bound, 1e3, ".2f", "overlapped", "not_overlapped"),
                f"{_GLOBAL_BATCH.value / bound['not_overlapped']:,.0f} to "
                f"{_GLOBAL_BATCH.value / bound['overlapped']:,.0f}",
                _range(efficiency, 100, ".1f", "not_overlapped", "overlapped"),
            ]
        )
    head = ["slice", "images a chip", "communication, ms", "step, ms", "images/s", "efficiency, %"]
    return _table(head, rows)


def memory(lines):
    """Table of what fits, and of what splitting parameters and optimiser state adds to it."""
    rows = []
    for line in lines:
        constant, slope = line.coefficients(lambda p: p["memory"]["total"])
        state = line.coefficients(lambda p: p["memory"]["arguments"])[0]
        available = line.program["memory"]["available"]
        without = (available - constant) / slope
        for fsdp in (1, 4, 16, 64):
            saved = state * (1 - 1 / fsdp)
            rows.append(
                [
                    line.program["chip"],
                    str(fsdp),
                    f"{state / fsdp / chips.GIB:.3f}",
                    f"{slope / 2**20:.2f}",
                    f"{math.floor((available - constant + saved) / slope)}",
                    f"{100 * saved / slope / without:.1f}",
                ]
            )
    head = ["chip", "fsdp", "state, GiB", "MiB an image", "images a chip that fit", "more, %"]
    return _table(head, rows)


def data(programs):
    """Table of the data set's size on disk and per chip, and of an epoch's least time."""
    examples = _SCANS.value * _EXAMPLES.value
    config = ml_collections.ConfigDict(programs[0]["config"])
    example = jax.eval_shape(lambda: example_batch(config))
    stored = sum(x.size * x.dtype.itemsize for x in example.values())
    size = examples * stored
    rows = []
    for name, count, chip, network, (program, *_) in slices(programs):
        cost, images = program["cost"], program["batch_size_per_chip"]
        bound = _estimate(program, count, chip, network, cost["flops"], _bytes(chip, cost))
        steps = math.ceil(examples / (count * images))
        rate = count * images / bound["overlapped"]
        rows.append(
            [
                name,
                f"{steps:,}",
                f"{steps * bound['overlapped'] / 60:.1f}",
                f"{rate * stored / 1e9:.2f}",
                f"{size / count / 1e9:,.1f}",
            ]
        )
    head = [
        "slice",
        "steps an epoch",
        "minutes an epoch at least",
        "GB/s read",
        "GB a chip's share",
    ]
    return f"{examples:,} examples, {size / 1e12:.2f} TB as they are stored\n\n" + _table(
        head, rows
    )


if __name__ == "__main__":
    command.run(main)
