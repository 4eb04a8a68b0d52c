"""Estimates how long a step takes at a chip's peaks. Nothing is measured.

    compute        operations / peak of the dtype
    memory         bytes from and to HBM / its rate
    communication  the sum over collectives of the seconds below

A step takes max(compute, memory, communication) if all three overlap, and at most max(compute,
memory) + communication, if communication waits for the rest. Its scaling efficiency is max(compute,
memory), the time of the same batch per chip without other chips, over that time.

A collective of D bytes over n chips, each of which can send B bytes per second to others:

    all-reduce                       2 (n - 1) / n D / B
    all-gather, reduce-scatter         (n - 1) / n D / B
    all-to-all                       D l / (4 B), where l is the longest axis
    permutation, broadcast           D / B

In a torus, B is summed over the axes that the group spans: the rate of two links, in both
directions round a ring, or of one link where the ends are not joined. If neighbours in the group
are s chips apart, s groups share the axis and each has 1/s of it. Between nodes of eight GPUs the
collective has three parts: in each node over NVLink, then between all nodes, each GPU with its
eighth of the data, then in each node again. Between slices of TPUs each chip sends its own part of
the data through its host, and n above is the number of slices. Latency is left out: it is
microseconds per collective and hop.
"""

import dataclasses
import math

import numpy as np

# Bytes that each of n chips sends, over the bytes D of a collective; for all-to-all see Torus.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}


@dataclasses.dataclass(frozen=True)
class Torus:
    """A slice of TPUs, or several with equal places.

    topology: chips.Topology.
    places: the coordinates of each partition's chip in its slice, [partitions of a slice, axes].
    """

    topology: object
    places: np.ndarray

    def seconds(self, collective):
        """Seconds of one exchange, in the slowest of its groups."""
        chip, kind = self.topology.chip, collective.kind
        if kind == "collective-permute":  # pairs, each over a path of its own
            return collective.bytes / chip.link_rate
        if kind.startswith("slices-"):
            sent = _SENT[kind.removeprefix("slices-")](self.topology.slices)
            return collective.bytes * sent / chip.network_rate
        return max(self._seconds(collective, group) for group in collective.groups)

    def _seconds(self, collective, group):
        if len(group) == 1:
            return 0.0
        rate, longest = self._rate(group)
        if collective.kind == "all-to-all":
            return collective.bytes * longest / (4 * rate)
        return collective.bytes * _SENT[collective.kind](len(group)) / rate

    def _rate(self, group):
        """Bytes per second that each chip of a group can send, and the group's longest axis."""
        chip, sizes = self.topology.chip, self.topology.shape
        places = self.places[list(group)]
        lengths = [len(set(places[:, axis])) for axis in range(len(sizes))]
        if math.prod(lengths) != len(group):  # no box: counted as one line
            return chip.link_rate, len(group)
        rate = 0.0
        for axis, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
            if length > 1:
                apart = int(np.diff(sorted(set(places[:, axis]))).min())
                ring = length * apart == size and chip.closed(size)
                rate += (2 if ring else 1) * chip.link_rate / apart
        return rate, max(lengths)


@dataclasses.dataclass(frozen=True)
class Nodes:
    """GPUs in nodes. A collective's group is a part of one node, or several whole nodes."""

    chip: object

    def seconds(self, collective):
        """Seconds of one exchange over groups of neighbouring partitions."""
        n, sent = collective.group_size, _SENT[collective.kind]
        inside = min(n, self.chip.node)
        seconds = collective.bytes * sent(inside) / self.chip.link_rate
        if n > inside:
            part = collective.bytes / inside
            seconds += part * sent(n / inside) / self.chip.network_rate
        return seconds


def estimate(chip, network, dtype, flops, hbm_bytes, collectives):
    """Seconds of a step: by part, with all overlapped and with nothing overlapped.

    Args:
        chip: chips.Chip.
        network: Torus or Nodes.
        dtype: of the config.
        flops, hbm_bytes: of one device and step.
        collectives: from compiled_program.

    Returns:
        {"compute", "memory", "communication", "overlapped", "not_overlapped"} in seconds and the
        efficiency of the last two, {"efficiency_overlapped", "efficiency_not_overlapped"}.
    """
    compute, memory = flops / chip.flops[dtype], hbm_bytes / chip.hbm_rate
    communication = sum(c.times * network.seconds(c) for c in collectives)
    alone = max(compute, memory)
    overlapped, not_overlapped = max(alone, communication), alone + communication
    return {
        "compute": compute,
        "memory": memory,
        "communication": communication,
        "overlapped": overlapped,
        "not_overlapped": not_overlapped,
        "efficiency_overlapped": alone / overlapped,
        "efficiency_not_overlapped": alone / not_overlapped,
    }
