"""Gradient accumulation: a batch goes through the networks in parts, one at a time in memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Part(NamedTuple):
    """What a step reads of its batch, or of one part of it: the pair, and a random key."""

    source: Any
    target: Any
    key: jax.Array


def over_parts(system, batch, key):
    """Averages a function over the parts of a batch.

    A mean of means is the mean of the whole batch, since parts are of one size and losses are means
    over examples. It is not for what looks at several examples at once: the statistics of batch
    norm, and soft Dice, whose sums are over a part then.

    Args:
        system: System; `accumulate` is the number of parts.
        batch: {name: [n, ...]}, stored values; n is a multiple of the number of parts.
        key: the step's random key. Each part has its own; the only part has this one.

    Returns:
        function -> (mean, rest), where function(Part) -> (a pytree of numbers, anything), mean is
        of the former, and rest is the latter of the only part, None if there are several.
    """
    count = system.accumulate

    def part(rows, key):
        source, target = system.normalise(rows, jax.random.fold_in(key, 0))
        return Part(source, target, key)

    if count == 1:
        whole = part(batch, key)
        return lambda function: function(whole)

    # Every count-th example, so that each device has as many of a part as any other.
    rows = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
    parts = rows, jax.random.split(key, count)

    def mean(function):
        def numbers(given):
            return function(part(*given))[0]

        def add(total, given):
            return jax.tree.map(jnp.add, total, numbers(given)), None

        first = jax.eval_shape(numbers, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / count, total), None

    return mean
