"""Finding the process that delays others, in closed forms; faults/test_observability.py has one."""

import time

import numpy as np
import pytest

from jax_pix2pix.logs.straggler import HostTime, compare, gather, line


def test_step_times_at_each_process_own_pace():
    """A device needs 0.1 s; its host delays it by 0, 0.3, 0.05 or 0.02 s more."""
    compared = compare(np.array([0.0, 0.3, 0.05, 0.02]), np.full(4, 0.4))
    assert compared["process"] == 1
    assert compared["slowest_seconds"] == pytest.approx(0.4)
    assert compared["median_seconds"] == pytest.approx(0.12)  # the lower of the middle two
    of_two = compare(np.array([0.3, 0.0]), np.full(2, 0.4))
    assert of_two == {"slowest_seconds": 0.4, "median_seconds": pytest.approx(0.1), "process": 0}


def test_only_a_notable_one_is_printed():
    compared = {"slowest_seconds": 0.12, "median_seconds": 0.1, "process": 3}
    assert line(7, compared) == (
        "epoch 7: process 3 is the slowest, 0.120 s a step; the median process takes 0.100 s"
    )
    assert line(7, compared | {"slowest_seconds": 0.109}) is None


def test_time_counts_where_the_device_had_nothing_to_do():
    host = HostTime()
    for idle in (True, False, True):
        host.begin()
        time.sleep(0.05)
        host.dispatched(idle)
        time.sleep(0.02)  # waiting for the device
    seconds, steps = host.take()
    assert steps == 3 and 0.1 <= seconds < 0.14
    assert host.take() == (0.0, 0)


def test_one_process_has_nothing_to_compare():
    assert gather(1.0, 10, 2.0) is None
