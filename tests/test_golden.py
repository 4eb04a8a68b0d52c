"""The first steps of every system give the losses they gave: see tests/golden."""

import pytest

from jax_pix2pix.systems import SYSTEMS
from tests import golden


@pytest.mark.parametrize("name", golden.CASES)
def test_first_losses(float64, name):
    expected = golden.read(name)
    values = golden.losses(golden.CASES[name])
    assert values.keys() == expected.keys()
    for metric in expected:
        assert values[metric] == pytest.approx(expected[metric], rel=golden.TOLERANCE), metric


def test_every_system_has_golden_losses():
    assert {golden.config_of(case).system for case in golden.CASES.values()} == set(SYSTEMS)
    assert {path.stem for path in golden.path_of("").parent.glob("*.json")} == set(golden.CASES)
