"""The text of a compiled program (HLO): its instructions, loops and shapes."""

import dataclasses
import math
import re

from jax_pix2pix.errors import BenchmarkError

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_ASSIGNMENT = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"(?:calls|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """name = shape opcode(arguments), attributes"""

    shape: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self):
        """Names, in order."""
        return re.findall(r"%([\w.\-]+)", self.arguments)


def parse(text):
    """-> {computation: {name: Instruction}} in the order of the text, name of the entry."""
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
    return Instruction(shape, opcode, rest[:end], rest[end + 1 :])


def _closing(text):
    """The index after the parenthesis that closes the first one."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place + 1
    raise BenchmarkError("the program's text has a parenthesis that nothing closes")


def called(attributes):
    """Names of the computations that an instruction runs."""
    branches = _BRANCHES.search(attributes)
    names = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return _CALLED.findall(attributes) + names


def loop(instruction):
    """The names of a while instruction's body and condition."""
    return [
        re.findall(rf"\b{part}=%?([\w.\-]+)", instruction.attributes)[0]
        for part in ("body", "condition")
    ]


def trip_count(loop, condition):
    """How often a loop runs: XLA's own count, or the constant to which its condition counts.

    Raises:
        BenchmarkError: neither is known.
    """
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(match[1])
    limits = [
        int(instruction.arguments)
        for instruction in condition.values()
        if instruction.opcode == "constant" and instruction.arguments.isdecimal()
    ]
    if len(limits) != 1:
        raise BenchmarkError("a loop of the program has an unknown length")
    return limits[0]


@dataclasses.dataclass(frozen=True)
class Array:
    """Facts about an array from its shape.

    bytes, padded_bytes: without and with padding to tiles.
    space: memory space; on TPUs 0 is HBM and 1 the chip's own memory (VMEM).
    """

    bytes: int
    padded_bytes: int
    space: int


_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


def arrays(shape):
    """The arrays of "f32[4,4,2]{2,1,0:T(8,128)S(1)}" or of a tuple of such."""
    found = []
    for kind, sizes, order, rest in _ARRAY.findall(shape):
        bits = re.search(r"\d+", kind)
        width = int(bits[0]) if bits else 8  # pred
        sizes = numbers(sizes)
        padded = [sizes[axis] for axis in reversed(numbers(order))] if order else list(sizes)
        tile = numbers(match[1]) if (match := re.match(r"T\(([\d,]+)\)", rest)) else ()
        padded = [1] * (len(tile) - len(padded)) + padded
        for axis, length in enumerate(reversed(tile), 1):
            padded[-axis] = math.ceil(padded[-axis] / length) * length
        space = re.search(r"S\((\d+)\)", rest)
        found.append(
            Array(
                math.ceil(math.prod(sizes) * width / 8),
                math.ceil(math.prod(padded) * width / 8),
                int(space[1]) if space else 0,
            )
        )
    return found


def numbers(text):
    """ "4,2" -> (4, 2)"""
    return tuple(int(number) for number in text.split(",") if number)


def shape_bytes(shape):
    """Bytes of an array or of a tuple of such, without padding to tiles."""
    return sum(array.bytes for array in arrays(shape))
