"""The gamma index against closed forms, and against pymedphys without shortcuts."""

import numpy as np
import pymedphys
import pytest

from jax_pix2pix.metrics import gamma
from jax_pix2pix.metrics.gamma import gamma_pass_rate


@pytest.mark.parametrize(("scale", "expected"), [(1, 100), (1.019, 100), (0.981, 100), (1.021, 0)])
def test_gamma_of_a_scaled_level_dose(scale, expected):
    level = np.full((6, 8, 10), 70.0)
    assert gamma_pass_rate(level, scale * level, (2, 2, 2), 2, 2) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("shift_mm", "expected"), [(1.85, 100), (2.1, 0)])
def test_gamma_of_a_shifted_ramp(shift_mm, expected):
    """On a slope of g % per mm gamma is shift x g / sqrt(2 ** 2 + (2 g) ** 2) at 2 % and 2 mm."""
    x = np.arange(41) * 0.5
    counted = (x >= 3) & (x <= 17)  # points beyond have a neighbour on one side only
    slope = 100 / 17
    assert (shift_mm * slope / np.hypot(2, 2 * slope) < 1) == (expected == 100)
    reference, shifted = (
        np.broadcast_to(slope * line, (8, 8, 41)) for line in (x * counted, x - shift_mm)
    )
    assert gamma_pass_rate(reference, shifted, (2, 2, 0.5), 2, 2) == expected


@pytest.mark.parametrize(("percent", "local_rate"), [(0.9, 100), (1.1, 0)])
def test_local_gamma_of_a_constant_factor(percent, local_rate):
    """A dose too high by p % everywhere: local gamma is p on a level dose, global only at 100 %."""
    level = np.repeat([100.0, 50.0], 6)[:, None, None] * np.ones((12, 8, 10))
    counted = np.arange(12)[:, None, None] % 11 > 0  # not what lies at a step of the dose
    counted &= (np.arange(12) != 5)[:, None, None] & (np.arange(12) != 6)[:, None, None]
    high = level * (1 + percent / 100)
    found = [
        gamma_pass_rate(level * counted, high, (9, 9, 9), 1, 1, local) for local in (True, False)
    ]
    assert found == [local_rate, 100 if percent < 1 else 50]


def test_local_gamma_of_a_shifted_slope():
    """A dose of slope s % of itself per mm, shifted by d: gamma is about d s / sqrt(1 + s ** 2)."""
    depth = np.broadcast_to(np.arange(40) * 0.5, (6, 6, 40))
    inner = np.exp(-0.02 * depth) * ((depth > 3) & (depth < 16))
    for shift_mm, expected in ((1.0, 100), (1.1, 100), (1.13, 0), (1.5, 0)):
        # s = 2: 2 d / sqrt(5) = 1 at d = 1.118 mm.
        shifted = np.exp(-0.02 * (depth - shift_mm))
        assert gamma_pass_rate(inner, shifted, (2, 2, 0.5), 1, 1, True) == expected, shift_mm


def _doses():
    """A field that falls off with depth and sideways, and the same with other depths by column."""
    z, y, x = np.mgrid[:14, :20, :24] * 3.0
    off_axis = np.hypot(z - 20, x - 35)
    wrong_mm = np.interp(x, (10, 60), (-25, 25))
    reference, evaluated = (
        100 * np.exp(-0.005 * depth) / (1 + np.exp((off_axis - 16) / 3))
        for depth in (y, y + wrong_mm)
    )
    return reference, evaluated


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
def test_gamma_is_pymedphys_without_shortcuts(local, monkeypatch):
    monkeypatch.setattr(gamma, "SEARCHED", 10**6)
    reference, evaluated = _doses()
    axes = tuple(np.arange(n) * 3.0 for n in reference.shape)
    index = pymedphys.gamma(
        axes,
        reference,
        axes,
        evaluated,
        1,
        1,
        lower_percent_dose_cutoff=10,
        max_gamma=1.1,
        interp_algo="scipy",
        local_gamma=local,
    )
    expected = 100 * np.mean(index[~np.isnan(index)] <= 1)
    found = gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1, local)
    assert 5 < found < 95
    assert found == pytest.approx(expected, abs=1e-9)


def test_gamma_of_some_of_the_points(monkeypatch):
    reference, evaluated = _doses()
    everywhere = gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)
    monkeypatch.setattr(gamma, "SEARCHED", 100)
    some = gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)
    assert some != everywhere and some == pytest.approx(everywhere, abs=4)
    assert some == gamma_pass_rate(reference, evaluated, (3, 3, 3), 1, 1)
