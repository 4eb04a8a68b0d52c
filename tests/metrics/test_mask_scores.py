"""Means over cases: what a missed structure costs."""

import numpy as np
import pytest

from jax_pix2pix.metrics.mask_scores import over_cases, score_masks, table_of

SPACING_MM = (2.0, 0.5, 1.5)
ORGAN = np.zeros((6, 20, 30), bool)
ORGAN[2:4, 5:15, 5:15] = True
SHIFTED = np.roll(ORGAN, 2, axis=2)
NOTHING = ORGAN & False
DIAGONAL = np.sqrt(12**2 + 10**2 + 45**2)


def _over(*pairs):
    cases = [score_masks(*pair, SPACING_MM) for pair in pairs]
    return over_cases(cases, [str(number) for number in range(len(pairs))])


def test_a_missed_organ_counts_in_the_mean_with_a_penalty():
    one = score_masks(SHIFTED, ORGAN, SPACING_MM)
    overall = _over((SHIFTED, ORGAN), (NOTHING, ORGAN), (NOTHING, ORGAN))
    for name in ("hd95_mm", "assd_mm"):
        assert overall[name]["mean"] == one[name]
        assert (overall[name]["cases"], overall[name]["undefined"]) == (1, 2)
        expected = (one[name] + 2 * DIAGONAL) / 3
        assert overall[name]["with_penalty"] == pytest.approx(expected)
        assert overall[name]["cases_with_penalty"] == 3
    for name in ("dice", "iou"):
        assert (
            overall[name]["mean"] == overall[name]["with_penalty"] == pytest.approx(one[name] / 3)
        )
    assert not any(name.endswith(".penalised") for name in overall)


def test_an_invented_organ_costs_as_much_and_an_absent_one_gives_nothing():
    one = score_masks(SHIFTED, ORGAN, SPACING_MM)
    overall = _over((SHIFTED, ORGAN), (ORGAN, NOTHING), (NOTHING, NOTHING))
    assert overall["dice"]["mean"] == pytest.approx((one["dice"] + 0 + 1) / 3)
    assert overall["dice"]["with_penalty"] == pytest.approx(one["dice"] / 2)
    assert overall["hd95_mm"]["mean"] == pytest.approx((one["hd95_mm"] + 0) / 2)
    assert overall["hd95_mm"]["with_penalty"] == pytest.approx((one["hd95_mm"] + DIAGONAL) / 2)
    assert overall["hd95_mm"]["cases_with_penalty"] == 2
    assert "with_penalty" not in overall["sensitivity"]


def test_images_without_a_spacing_have_a_penalty_of_their_overlap_alone():
    scores = score_masks(NOTHING, ORGAN, None)
    assert scores["dice.penalised"] == 0 and not any("_mm" in name for name in scores)


def test_the_table_says_how_many_cases_count():
    table = table_of("liver", {"model": _over((SHIFTED, ORGAN), (NOTHING, ORGAN))})
    hd95 = score_masks(SHIFTED, ORGAN, SPACING_MM)["hd95_mm"]
    cell = f"{hd95:.4f} (1 of 2), with penalty {(hd95 + DIAGONAL) / 2:.4f} (2)"
    assert cell in table and len({len(line) for line in table.splitlines()}) == 1
    complete = table_of("liver", {"model": _over((SHIFTED, ORGAN), (SHIFTED, ORGAN))})
    assert "penalty" not in complete and " of " not in complete
