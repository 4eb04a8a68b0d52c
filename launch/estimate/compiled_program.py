"""Reads memory, arithmetic and collectives of one device from XLA's compiled program.

Collectives are read from the program's text (HLO). Every device runs the same program, so that one
text holds the collectives of all devices.
"""

import dataclasses
import math
import re

import numpy as np

from jax_pix2pix.errors import BenchmarkError
from launch.estimate import program_text

# Each kind sends its own multiple of its size. Asynchronous ones end in -start.
KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip
BETWEEN_SLICES = ("slices-all-reduce",)  # the only one that steps have


class DoesNotFit(BenchmarkError):
    """A program needs more memory than a device has. used, available: bytes, None if unknown."""

    def __init__(self, used, available):
        super().__init__(f"needs {used} bytes of {available}")
        self.used, self.available = used, available


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    kind: one of KINDS.
    bytes: per device and for the whole: the reduced array, all gathered parts together, or what an
        all-to-all or a permutation sends.
    arrays: number of arrays that are exchanged at once.
    groups: partition numbers of each group, within which devices exchange; (sender, receiver) for a
        permutation.
    times: number of times per step, more than 1 in a loop.
    """

    kind: str
    bytes: int
    arrays: int
    groups: tuple[tuple[int, ...], ...]
    times: int = 1

    @property
    def group_size(self):
        return max(len(group) for group in self.groups)


def memory(compiled):
    """{"arguments", "outputs", "aliased", "temporary", "code", "total"}: bytes of one device.

    total = arguments + outputs - aliased + temporary + code, as an output that takes an argument's
    place needs no memory of its own.
    """
    sizes = compiled.memory_analysis()
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes,
        "aliased": sizes.alias_size_in_bytes,
        "temporary": sizes.temp_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    return parts | {"total": sum(parts.values()) - 2 * parts["aliased"]}


def costs(compiled):
    """{"flops", "bytes_accessed"} of one device, by XLA's own count.

    XLA counts a copy between memories as several accesses; `traffic` does not.
    """
    cost = compiled.cost_analysis()
    return {"flops": cost["flops"], "bytes_accessed": cost["bytes accessed"]}


_MOVES_NOTHING = {
    "after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter",
    "partition-id", "replica-id", "tuple",
}  # fmt: skip
_NAMES_A_BUFFER = re.compile(r'custom_call_target="(ConcatBitcast|AllocateBuffer)"')


def traffic(text):
    """Bytes that a step moves, including the padding of arrays to tiles.

    Args:
        text: of a compiled module.

    Returns:
        {"operand_bytes": operands and results of every operation in any memory, a fused one counted
        as one; "hbm_bytes": those of them that lie in HBM, and what copies between HBM and the
        chip's own memory move}. Both are upper bounds: an operand counts whole even if only a part
        of it is read, and both branches of a condition count.

    Raises:
        BenchmarkError: a loop has an unknown length.
    """
    computations, entry = program_text.parse(text)

    def visit(name):
        total = np.zeros(2, np.int64)
        instructions = computations[name]
        for instruction in instructions.values():
            opcode = instruction.opcode
            if opcode == "while":
                body, condition = program_text.loop(instruction)
                length = program_text.trip_count(instruction, computations[condition])
                total += length * (visit(body) + visit(condition))
            elif opcode in ("call", "conditional"):
                total += sum(map(visit, program_text.called(instruction.attributes)))
            elif opcode not in _MOVES_NOTHING and not _NAMES_A_BUFFER.search(
                instruction.attributes
            ):
                moved = _moved(instruction, instructions)
                in_hbm = sum(array.padded_bytes for array in moved if array.space == 0)
                between = opcode.startswith(("copy-", "slice-"))
                total += 0 if between else sum(array.padded_bytes for array in moved), in_hbm
        return total

    operands, hbm = visit(entry)
    return {"operand_bytes": int(operands), "hbm_bytes": int(hbm)}


def _moved(instruction, instructions):
    """Arrays that an instruction reads and writes. An asynchronous one writes at its end."""
    read = [
        array
        for name in instruction.operands
        for array in program_text.arrays(instructions[name].shape)
    ]
    written = program_text.arrays(instruction.shape)
    if instruction.opcode == "slice-start":  # ((source), slice, context)
        return [dataclasses.replace(written[-2], space=read[0].space)]
    if instruction.opcode.endswith("-start"):
        return read
    if instruction.opcode.endswith("-update"):
        return []
    if instruction.opcode.endswith("-done"):
        return written
    return read + written


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSALS = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
)


def out_of_memory(message):
    """XLA's RESOURCE_EXHAUSTED -> DoesNotFit with its figures, which XLA rounds to 1/100."""
    for pattern in _REFUSALS:
        if match := re.search(pattern, message):
            used, used_unit, available, available_unit = match.groups()
            return DoesNotFit(
                round(float(used) * _UNITS[used_unit]),
                round(float(available) * _UNITS[available_unit]),
            )
    return DoesNotFit(None, None)


def collectives(text, partitions, slices=1):
    """The collectives of a step, in the order of the text.

    Between slices of TPUs XLA's hosts exchange what chips send them: collectives of the kinds
    BETWEEN_SLICES, whose groups are numbers of slices.

    Args:
        text: of a compiled module.
        partitions: devices of a slice that run it.
        slices: slices of TPUs that run it.

    Raises:
        BenchmarkError: a loop with a collective in it has an unknown length, or groups or an
            exchange between slices are written in an unknown form.
    """
    computations, entry = program_text.parse(text)
    found, seen = [], set()

    def visit(name, times):
        instructions = computations[name]
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                # A collective that overlaps computation is cut in pieces, which all repeat it.
                piece = re.search(r"channel_id=(\d+).*chain_id=", instruction.attributes)
                if piece and piece[1] in seen:
                    continue
                if piece:
                    seen.add(piece[1])
                found.append(_collective(kind, instruction, instructions, partitions, times))
                continue
            if instruction.opcode == "send":
                found.append(_between_slices(instruction, instructions, slices, times))
                continue
            if instruction.opcode == "while":
                body, condition = program_text.loop(instruction)
                before = len(found)
                visit(body, times)
                if len(found) > before:
                    length = program_text.trip_count(instruction, computations[condition])
                    found[before:] = [
                        dataclasses.replace(c, times=c.times * length) for c in found[before:]
                    ]
                continue
            for called in program_text.called(instruction.attributes):
                visit(called, times)

    visit(entry, 1)
    return found


def _collective(kind, instruction, instructions, partitions, times):
    sizes = [program_text.shape_bytes(instructions[name].shape) for name in instruction.operands]
    groups = _groups(instruction.attributes, partitions)
    parts = max(len(group) for group in groups) if kind == "all-gather" else 1
    return Collective(kind, parts * sum(sizes), len(sizes), groups, times)


def _between_slices(instruction, instructions, slices, times):
    match = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    kind = f"slices-{match[1].lower().replace('_', '-')}" if match else None
    if kind not in BETWEEN_SLICES:
        raise BenchmarkError(f"an exchange of unknown kind: {instruction.attributes[:200]}")
    size = program_text.shape_bytes(instructions[instruction.operands[0]].shape)
    return Collective(kind, size, 1, (tuple(range(slices)),), times)


def _groups(attributes, partitions):
    """The groups of a collective, from any form in which XLA writes them.

    {{0,1},{2,3}}                  each
    {}                             all in one
    [2,4]<=[4,2]T(1,0)             2 groups of 4: arange(8).reshape(4, 2).T.reshape(2, 4)
    mesh['a'=2,'b'=4] {'b'}        along these axes of a mesh of devices in order
    mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}      in another order
    ... {'a':(2)4}                 along a part of an axis: 4 steps of it, after 2 parts
    """
    if match := re.search(
        r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attributes
    ):
        groups = [
            tuple(int(number) for number in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", match[1])
        ]
        return tuple(groups) or (tuple(range(partitions)),)
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return _rows(_iota(match[2]).reshape(program_text.numbers(match[1])))
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}", attributes
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        devices = _iota(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        return _rows(_along(devices.reshape(tuple(sizes.values())), list(sizes), match[3]))
    raise BenchmarkError(f"groups of devices in an unknown form: {attributes[:200]}")


def _iota(text):
    """ "[4,2]T(1,0)" -> the device numbers that it stands for, flat."""
    match = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not match:
        raise BenchmarkError(f"devices in an unknown form: {text}")
    shape = program_text.numbers(match[1])
    devices = np.arange(math.prod(shape)).reshape(shape)
    return (devices.transpose(program_text.numbers(match[2])) if match[2] else devices).ravel()


def _along(devices, names, axes):
    """Devices of a mesh -> [groups, size], along the named axes or parts of them."""
    wanted, shape, place = [], [], 0
    parts = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    }
    for name, length in zip(names, devices.shape, strict=True):
        before, size = parts.get(name, (1, 0))
        size = size or (length if name in parts else 1)
        if name in parts:
            wanted.append(place + 1)
        shape += [before, size, length // (before * size)]
        place += 3
    others = [axis for axis in range(len(shape)) if axis not in wanted]
    split = devices.reshape(shape).transpose(others + wanted)
    return split.reshape(-1, math.prod(shape[axis] for axis in wanted))


def _rows(array):
    return tuple(tuple(int(number) for number in row) for row in array)
