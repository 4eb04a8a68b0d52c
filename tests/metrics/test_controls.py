"""Heads that are wrong on purpose fail the dose scores, and mark those that they reach."""

import numpy as np
import pytest

from jax_pix2pix.evaluation import synthesis_report
from jax_pix2pix.metrics import controls, gamma
from jax_pix2pix.metrics.dose import SCORES
from jax_pix2pix.metrics.sct_scores import CTScorer
from tests.heads import head, mirrored

SPACING_MM = (4.0, 4.0, 4.0)
WRONG = ("water", "bone_as_soft_tissue", "mirrored")


@pytest.fixture(scope="module")
def good():
    """CTScores of a head with noise, and of controls beside it."""
    ct, mask = head()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gamma, "SEARCHED", 50)  # points; gamma is then within two of its value
        scorer = CTScorer(ct, mask, SPACING_MM, protocols=[])
        return scorer(ct + np.random.default_rng(0).normal(0, 40, ct.shape))


def test_wrong_heads_fail_the_scores_that_tell(good):
    assert good["range.mean_mm"] < 0.5 and good["range.p95_mm"] < 1
    assert good["gamma_local_1_1"] > 99 and good["delta_off_centre"] < 0.1
    assert set(good.controls) == set(WRONG)
    for name, wrong in good.controls.items():
        assert set(wrong) == set(SCORES)
        assert wrong["range.mean_mm"] > 2.5 and wrong["range.p95_mm"] > 4, name
        assert wrong["gamma_local_1_1"] < 95 and wrong["delta_off_centre"] > 1, name
        assert wrong["gamma_2_2"] > 96, name  # why it is no headline
        best = {f"{score}.best_control": good[f"{score}.best_control"] for score in SCORES}
        assert len(controls.does_not_tell([wrong | best])) > 4, name


def test_controls_are_made_of_the_real_ct(good):
    ct, mask = head()
    made = controls.made_of(ct, mask)
    expected = {
        "water": np.where(mask, 0.0, ct),
        "bone_as_soft_tissue": np.where(ct > 150, 40.0, ct),
        "mirrored": mirrored(ct, mask),
    }
    assert set(made) == set(expected)
    for name, hu in expected.items():
        np.testing.assert_array_equal(made[name], hu)
    best = min(of["range.mean_mm"] for of in good.controls.values())
    assert good["range.mean_mm.best_control"] == best


def test_a_score_that_a_control_reaches_is_marked(good):
    assert "gamma_2_2" in good.does_not_tell
    telling = {"range.mean_mm", "range.p95_mm", "gamma_local_1_1", "delta_off_centre"}
    assert not telling & set(good.does_not_tell)
    assert f"does not tell: {', '.join(good.does_not_tell)}" in repr(good)
    lines = synthesis_report.table_of_volume(good).splitlines()
    marked = {line.split()[0] for line in lines if line.endswith("  does not tell")}
    assert marked == set(good.does_not_tell)
    (row,) = (line for line in lines if line.startswith("gamma_local_1_1"))
    values = [good, *(good.controls[name] for name in controls.PROTOCOLS)]
    shown = [float(text) for text in row.split()[1:]]
    assert shown == pytest.approx([of["gamma_local_1_1"] for of in values], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "control", "marked"),
    [
        ("gamma_2_2", 100.0, 98.9, False),
        ("gamma_2_2", 100.0, 99.1, True),
        ("delta_d98", -0.1, 0.36, False),
        ("delta_d98", 0.1, -0.34, True),
        ("range.mean_mm", 1.0, 1.6, False),
        ("range.mean_mm", 1.0, 1.4, True),
        ("range.mean_mm", 9.0, 1.4, True),
        ("range.mean_mm", np.nan, 1.4, False),
        ("range.mean_mm", 9.0, np.nan, False),
    ],
)
def test_margins(name, value, control, marked):
    case = {name: value, f"{name}.best_control": control, "synthrad2023.mae": 3.0}
    assert controls.does_not_tell([case]) == [name] * marked


def test_over_patients_differences_of_opposite_signs_do_not_cancel():
    cases = [{"delta_d98": sign * 2.0, "delta_d98.best_control": -1.0 * sign} for sign in (1, -1)]
    assert controls.does_not_tell(cases) == ["delta_d98"]


def test_what_equals_the_real_ct_is_no_control():
    """A stripped brain has no bone to take away, and a ball is its own mirror image."""
    z, y, x = np.ogrid[-9.5:10, -9.5:10, -9.5:10]
    mask = z**2 + y**2 + x**2 < 80
    ct = np.where(mask, 35.0, -1000.0)
    assert set(controls.made_of(ct, mask)) == {"water"}
    assert not controls.made_of(np.where(mask, 2, -1000), mask)
