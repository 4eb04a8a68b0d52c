"""Times of collectives against closed forms, and which slices exist."""

import numpy as np
import pytest

from jax_pix2pix.errors import ConfigError
from launch.estimate import chips, roofline
from launch.estimate.compiled_program import Collective

D = 10**9


def _torus(name):
    topology = chips.topology(name)
    return roofline.Torus(topology, np.array(list(np.ndindex(topology.shape))))


def _seconds(network, kind, *groups):
    return network.seconds(Collective(kind, D, 1, groups))


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("v5e:2x2", 2),  # one link to the neighbour along each axis
        ("v5e:4x8", 2),  # both axes are open: one link each
        ("v5e:8x16", 3),  # the axis of 16 is a ring: two links
        ("v5e:16x16", 4),
        ("v4:2x2x1", 2),
        ("v5p:4x8x8", 6),
    ],
)
def test_an_all_reduce_over_a_whole_slice(name, links):
    network, n = _torus(name), chips.topology(name).chips
    rate = links * network.topology.chip.link_rate
    everyone = tuple(range(n))
    assert _seconds(network, "all-reduce", everyone) == pytest.approx(2 * (n - 1) / n * D / rate)
    for kind in ("all-gather", "reduce-scatter"):
        assert _seconds(network, kind, everyone) == pytest.approx((n - 1) / n * D / rate)


def test_groups_share_the_links_that_they_cross():
    network, w = _torus("v5e:4x4"), 50e9
    row, far = ((0, 1), (2, 3)), ((0, 2), (1, 3))
    assert _seconds(network, "all-gather", *row) == pytest.approx(D / 2 / w)
    assert _seconds(network, "all-gather", *far) == pytest.approx(D / 2 / (w / 2))
    bent = (0, 1, 4)  # no box
    assert _seconds(network, "all-gather", bent) == pytest.approx(2 / 3 * D / w)
    assert _seconds(network, "all-reduce", (0,), (1,)) == 0


@pytest.mark.parametrize(("slices", "sent"), [(2, 1), (4, 1.5)])
def test_slices_exchange_over_the_network_of_the_data_centre(slices, sent):
    """A pod of 256 v5e has 6.4 Tbit/s; each chip sends its own part of the data."""
    network = _torus(f"{slices}xv5e:2x2")
    assert network.topology.chips == 4 * slices and network.topology.slice_name == "v5e:2x2"
    seconds = _seconds(network, "slices-all-reduce", tuple(range(slices)))
    assert seconds == pytest.approx(sent * D / (25e9 / 8))


def test_all_to_all_along_a_line_and_a_ring():
    # Half of the chips send to the other half over one link, or over two round a ring.
    line = tuple(range(8))  # an axis of 8 chips
    crossing = 4 * 4 * D / 8
    assert _seconds(_torus("v5e:4x8"), "all-to-all", line) == pytest.approx(crossing / 50e9)
    crossing = 8 * 8 * D / 16
    ring = tuple(range(16))
    assert _seconds(_torus("v5e:16x16"), "all-to-all", ring) == pytest.approx(crossing / 100e9)
    assert _seconds(_torus("v5e:4x4"), "collective-permute", (0, 1)) == D / 50e9


def test_nodes_reduce_inside_then_across():
    network = roofline.Nodes(chips.H100)
    inside = 2 * 7 / 8 * D / 450e9
    assert _seconds(network, "all-reduce", tuple(range(8))) == pytest.approx(inside)
    across = 2 * 3 / 4 * (D / 8) / 50e9
    assert _seconds(network, "all-reduce", tuple(range(32))) == pytest.approx(inside + across)


def test_a_step_is_bound_by_what_takes_longest():
    chip = chips.TPUS["v5e"]
    everyone = (tuple(range(4)),)
    collectives = [Collective("all-reduce", D, 1, everyone, times=2)]
    communication = 2 * 1.5 * D / 100e9

    def bound(flops, hbm_bytes):
        return roofline.estimate(chip, _torus("v5e:2x2"), "bfloat16", flops, hbm_bytes, collectives)

    compute_bound = bound(197e12, 819e6)
    assert compute_bound["compute"] == 1 and compute_bound["memory"] == pytest.approx(1e-3)
    assert compute_bound["communication"] == pytest.approx(communication)
    assert compute_bound["overlapped"] == 1
    assert compute_bound["not_overlapped"] == pytest.approx(1 + communication)
    assert compute_bound["efficiency_overlapped"] == 1
    assert compute_bound["efficiency_not_overlapped"] == pytest.approx(1 / (1 + communication))
    hidden = bound(0, 819e9 * communication / 4)
    assert hidden["overlapped"] == pytest.approx(communication)
    assert hidden["efficiency_overlapped"] == pytest.approx(1 / 4)
    assert hidden["efficiency_not_overlapped"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "is unknown: use e.g. v5e:2x2"),
        ("v9:2x2", "is unknown"),
        ("v5e:2x2x1", "TPU v5e has the shapes 1x1, 2x2"),
        ("v5e:32x16", "8x16, 16x16"),
        ("v5p:4x4", "TPU v5p has the shapes 2x2x1"),
        ("v5p:4x4x6", "multiples of four"),
        ("v4:0x4x4", "multiples of four"),
        ("2xv4:2x2x1", "the rate between slices of TPU v4 is not published"),
        ("0xv5e:2x2", "is unknown"),
        ("v4:16x16x20", "up to 4096 chips"),
    ],
)
def test_unknown_slices_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        chips.topology(name)
