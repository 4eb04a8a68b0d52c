"""Applies a convolutional network to a large image in blocks, each with its halo.

A block holds all that its part of the output depends on, so that the result equals that of the
whole image up to rounding. `sliding_window.py` is for networks whose receptive field is too large.
"""

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Field:
    """The receptive field of a network along each axis.

    Attributes:
        halo: the most input pixels on each side of a grid cell that its outputs depend on; a
            multiple of ``grid``.
        shrink: pixels that convolutions without padding take off each end of the output.
        grid: pixels of a grid cell; blocks begin at its borders. It is 2**n for n halvings.
    """

    halo: int
    shrink: int = 0
    grid: int = 1


def by_blocks(apply, planes, total, field, pixels):
    """Applies a network block by block; one block at a time is on the device.

    Args:
        apply: the network, block [1, *sides, c] -> [1, *(sides - 2 * field.shrink), channels].
        planes: (start, stop) -> NumPy [stop - start, *total[1:], c], planes of the input along its
            first axis. It is called in increasing order, and again for a plane in the halos of
            several blocks.
        total: the sides of the whole input, multiples of field.grid.
        field: Field of the network.
        pixels: the most pixels of a block, where halo and grid allow that.

    Returns:
        float32 [*(total - 2 * field.shrink), channels].
    """
    sides = block_sides(total, field, pixels)
    starts = [_starts(*lengths, field) for lengths in zip(total, sides, strict=True)]
    result = None
    for first in starts[0]:
        slab = planes(first, first + sides[0])
        for rest in itertools.product(*starts[1:]):
            inside = tuple(map(slice, rest, np.add(rest, sides[1:])))
            output = np.asarray(apply(slab[:, *inside][None]))[0]
            if result is None:
                lengths = (length - 2 * field.shrink for length in total)
                result = np.empty((*lengths, output.shape[-1]), np.float32)
            places = zip((first, *rest), sides, total, strict=True)
            kept = [_kept(*place, field) for place in places]
            result[tuple(there for there, _ in kept)] = output[tuple(here for _, here in kept)]
    return result


def block_sides(total, field, pixels):
    """Computes the sides of blocks of at most `pixels` pixels; the longest axis is cut most.

    Blocks are larger where halo and grid allow none smaller. The arguments are those of by_blocks.
    """
    sides, parts = list(total), [1] * len(total)
    while math.prod(sides) > pixels:
        longest = max(range(len(sides)), key=sides.__getitem__)
        if sides[longest] <= 2 * field.halo + field.grid:
            break
        parts[longest] += 1
        own = -(-(total[longest] - 2 * field.halo) // parts[longest])
        sides[longest] = 2 * field.halo + -(-own // field.grid) * field.grid
    return tuple(sides)


def _starts(length, side, field):
    """Lists where blocks begin along an axis. The last ends with the axis: all have one size."""
    last = length - side
    return sorted({last, *range(0, last, side - 2 * field.halo)}) if last else [0]


def _kept(start, side, length, field):
    """Finds a block's own part of an axis: (slice of the result, slice of the block's output)."""
    low = start + (field.halo if start else field.shrink)
    high = start + side - (field.halo if start + side < length else field.shrink)
    return (
        slice(low - field.shrink, high - field.shrink),
        slice(low - field.shrink - start, high - field.shrink - start),
    )
