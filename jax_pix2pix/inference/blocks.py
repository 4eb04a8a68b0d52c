"""A convolutional network's output of a large image, from blocks that each bring their halo.

A block holds all that its part of the output depends on, so that the result is that of the whole
image up to rounding. Where a network's reach is too large for that, see `blending.py`.
"""

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Field:
    """What the outputs of a network depend on, along each axis.

    Attributes:
        halo: input pixels on each side of a cell of the grid that its outputs depend on, at most;
            a multiple of ``grid``.
        shrink: how much shorter the output is at each end, by convolutions without padding.
        grid: pixels of a cell, at whose borders blocks begin: 2**n for n halvings.
    """

    halo: int
    shrink: int = 0
    grid: int = 1


def by_blocks(apply, planes, total, field, pixels):
    """Applies a network block by block; one block of input and output is on the device.

    Args:
        apply: the network, block [1, *sides, c] -> [1, *(sides - 2 * field.shrink), channels].
        planes: (start, stop) -> NumPy [stop - start, *total[1:], c], planes of the input along its
            first axis. Asked for from the first to the last; each twice or more where it is in the
            halos of several blocks.
        total: the sides of the whole input, multiples of field.grid.
        field: Field of the network.
        pixels: of a block at most, where halo and grid allow that.

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
    """The sides of blocks of at most so many pixels, the longest axis being cut most.

    Of more pixels where halo and grid leave no smaller ones. The arguments are those of by_blocks.
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
    """Where blocks along an axis begin. The last one ends with the axis, so that all are alike."""
    last = length - side
    return sorted({last, *range(0, last, side - 2 * field.halo)}) if last else [0]


def _kept(start, side, length, field):
    """What a block settles along an axis: (slice of the result, slice of the block's output)."""
    low = start + (field.halo if start else field.shrink)
    high = start + side - (field.halo if start + side < length else field.shrink)
    return (
        slice(low - field.shrink, high - field.shrink),
        slice(low - field.shrink - start, high - field.shrink - start),
    )
