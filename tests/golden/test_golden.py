"""The first steps of every system still give the same losses: see tests/golden."""

import math

import pytest

from jax_pix2pix.systems import SYSTEMS
from tests import golden

# These take longest to compile. mri2ct_extended has all optional parts.
SLOW = {"ct_pyramid_2d", "liver", "lung_segmenter", "mri2ct", "mri2ct_extended", "xray_lungs"}
# Further variants of these systems.
LONG = {
    "ct_pyramid_3d",
    "ct_pyramid_3d_as_published",
    "liver_3d_tumour",
    "liver_as_published",
    "mri2ct_3d",
    "mri2ct_as_published",
    "xray_lungs_as_published",
}


def _marks(name):
    return [
        *([pytest.mark.slow] if name in SLOW | LONG else []),
        *([pytest.mark.long] if name in LONG else []),
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_marks(name)) for name in golden.CASES],
)
def test_first_losses(float64, name):
    expected = golden.read(name)
    values = golden.losses(golden.CASES[name])
    assert values.keys() == expected.keys()
    for metric in expected:
        assert values[metric] == pytest.approx(expected[metric], rel=golden.TOLERANCE), (
            f"{metric} of {name} is not what it was. If a change was meant to move it, run "
            "`python -m tests.golden --write` and say in the commit why; else it is a mistake"
        )


def test_every_system_has_golden_losses():
    assert {golden.config_of(case).system for case in golden.CASES.values()} == set(SYSTEMS)
    assert {path.stem for path in golden.path_of("").parent.glob("*.json")} == set(golden.CASES)


@pytest.mark.parametrize(
    ("ours", "theirs", "distance"),
    [
        ([1.0, 0.0], [1.0, 0.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([math.nan, 1.0], [1.0, 1.0], math.inf),
        ([1.0, math.nan], [1.0, math.nan], math.inf),
        ([1.0], [1.0, 1.0], math.inf),
    ],
)
def test_distance(ours, theirs, distance):
    found = golden.distance({"first": [1.0], "loss": ours}, {"loss": theirs, "first": [1.0]})
    assert found == pytest.approx(distance)
    assert golden.distance({"loss": [1.0]}, {"loss": [0.0]}) > 1
