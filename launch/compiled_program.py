"""What XLA says of a compiled program: memory, arithmetic and collectives, of one device.

Collectives are read from the program's text (HLO). Every device runs the same program, so that one
text holds the collectives of all.
"""

import dataclasses
import math
import re

import numpy as np

from jax_pix2pix.errors import BenchmarkError

# What has a different factor of its size on the wire each; asynchronous ones end in -start.
KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip


class DoesNotFit(BenchmarkError):
    """A program needs more memory than a device has: bytes, where XLA says so."""

    def __init__(self, used, available):
        super().__init__(f"needs {used} bytes of {available}")
        self.used, self.available = used, available


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    kind: one of KINDS.
    bytes: on each device, of the whole: what is reduced, what all parts make when gathered, what is
        sent of an all-to-all or a permutation.
    arrays: that are exchanged at once.
    groups: of partition numbers, which exchange within each; (sender, receiver) of a permutation.
    times: a step, more than 1 in a loop.
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

    total = arguments + outputs - aliased + temporary + code: outputs that take an argument's place
    need none of their own.
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
    """{"flops", "bytes_accessed"} of one device.

    Bytes are those of the operands and results of every fused operation. Some of them stay in the
    chip's own memory, so that less crosses to HBM.
    """
    cost = compiled.cost_analysis()
    return {"flops": cost["flops"], "bytes_accessed": cost["bytes accessed"]}


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSALS = (
    r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
    r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)",
)


def out_of_memory(message):
    """XLA's RESOURCE_EXHAUSTED -> DoesNotFit, with its figures, which are rounded to 1/100."""
    for pattern in _REFUSALS:
        if match := re.search(pattern, message):
            used, used_unit, available, available_unit = match.groups()
            return DoesNotFit(
                round(float(used) * _UNITS[used_unit]),
                round(float(available) * _UNITS[available_unit]),
            )
    return DoesNotFit(None, None)


_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ASSIGNMENT = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(?:calls|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class _Instruction:
    shape: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self):
        return re.findall(r"%([\w.\-]+)", self.arguments)


def collectives(text, partitions):
    """The collectives of a step, in the order of the text.

    Args:
        text: of a compiled module.
        partitions: devices that run it.

    Raises:
        BenchmarkError: a loop with a collective in it has an unknown length, or groups are written
            in an unknown form.
    """
    computations, entry = _parse(text)
    found, seen = [], set()

    def visit(name, times):
        instructions = computations[name]
        for instruction in instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS:
                # A collective that computation overlaps is cut in pieces, which all repeat it.
                piece = re.search(r"channel_id=(\d+).*chain_id=", instruction.attributes)
                if piece and piece[1] in seen:
                    continue
                if piece:
                    seen.add(piece[1])
                found.append(_collective(kind, instruction, instructions, partitions, times))
                continue
            if instruction.opcode == "while":
                body, condition = (
                    re.findall(rf"\b{part}=%?([\w.\-]+)", instruction.attributes)[0]
                    for part in ("body", "condition")
                )
                before = len(found)
                visit(body, times)
                if len(found) > before:
                    length = _trip_count(instruction, computations[condition])
                    found[before:] = [
                        dataclasses.replace(c, times=c.times * length) for c in found[before:]
                    ]
                continue
            for called in _called(instruction.attributes):
                visit(called, times)

    visit(entry, 1)
    return found


def _parse(text):
    """-> {computation: {name: _Instruction}}, name of the entry."""
    computations, entry, current = {}, None, {}
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := _ASSIGNMENT.match(line):
            current[match[1]] = _instruction(line[match.end() :])
    return computations, entry


def _instruction(text):
    end = _closing(text) if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 2
    return _Instruction(shape, opcode, rest[:end], rest[end + 1 :])


def _closing(text):
    """The place after the parenthesis that closes the first one."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place + 1
    raise BenchmarkError("the program's text has a parenthesis that nothing closes")


def _called(attributes):
    branches = _BRANCHES.search(attributes)
    names = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return _CALLED.findall(attributes) + names


def _trip_count(loop, condition):
    """How often a loop runs: as XLA found, or as a condition that counts to a constant says."""
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(match[1])
    limits = [
        int(instruction.arguments)
        for instruction in condition.values()
        if instruction.opcode == "constant" and instruction.arguments.isdecimal()
    ]
    if len(limits) != 1:
        raise BenchmarkError("a loop of unknown length exchanges data between devices")
    return limits[0]


def shape_bytes(shape):
    """Bytes of "f32[4,4,2]{2,1,0}" or of a tuple of such. Padding to tiles is not counted."""
    total = 0
    for kind, sizes in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        bits = re.search(r"\d+", kind)
        width = int(bits[0]) if bits else 8  # pred
        total += math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * width / 8)
    return total


def _collective(kind, instruction, instructions, partitions, times):
    sizes = [shape_bytes(instructions[name].shape) for name in instruction.operands]
    groups = _groups(instruction.attributes, partitions)
    parts = max(len(group) for group in groups) if kind == "all-gather" else 1
    return Collective(kind, parts * sum(sizes), len(sizes), groups, times)


def _groups(attributes, partitions):
    """The groups of a collective, in any of the forms in which XLA writes them.

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
        return _rows(_iota(match[2]).reshape(_numbers(match[1])))
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? \{([^}]*)\}", attributes
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        devices = _iota(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        return _rows(_along(devices.reshape(tuple(sizes.values())), list(sizes), match[3]))
    raise BenchmarkError(f"groups of devices in an unknown form: {attributes[:200]}")


def _numbers(text):
    return tuple(int(number) for number in text.split(","))


def _iota(text):
    """ "[4,2]T(1,0)" -> what it stands for, flat."""
    match = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not match:
        raise BenchmarkError(f"devices in an unknown form: {text}")
    shape = _numbers(match[1])
    devices = np.arange(math.prod(shape)).reshape(shape)
    return (devices.transpose(_numbers(match[2])) if match[2] else devices).ravel()


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
