"""A patient's scores: their parts, their names and undefined ones."""

import json

import numpy as np
import pytest

from jax_pix2pix.metrics import protocols, sct_scores
from jax_pix2pix.metrics.dose import SCORES, Dosimetry
from jax_pix2pix.metrics.mask_scores import json_case, over_cases, score_masks
from jax_pix2pix.metrics.structures import structure_scores, structures
from tests.synthetic_ct import abdomen_pair

SPACING_MM = (3.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def pair():
    return abdomen_pair()


@pytest.fixture(scope="module")
def scores(pair):
    return sct_scores.score_ct(*pair, SPACING_MM)


def test_structures_share_out_the_mask():
    hu = np.array([[-300, -201, -200, 0, 250, 251, 900, 900]])
    mask = np.array([[True] * 7 + [False]])
    found = {name: part[0].nonzero()[0].tolist() for name, part in structures(hu, mask).items()}
    assert found == {"bone": [5, 6], "soft_tissue": [2, 3, 4], "air": [0, 1]}


def test_scores_are_those_of_their_parts(pair, scores):
    ct, sct, mask = pair
    ct, sct = ct.clip(-1024), sct.clip(-1024)
    for name, values in protocols.compare(ct, sct, mask).items():
        for metric, value in values.items():
            assert scores[f"{name}.{metric}"] == value
    bone = score_masks((sct > 250) & mask, (ct > 250) & mask, SPACING_MM)
    assert scores["bone.dice"] == bone["dice"] and 0.1 < bone["dice"] < 1
    assert scores["bone.hd95_mm"] == bone["hd95_mm"] > 0
    found, doses = Dosimetry(ct, mask, SPACING_MM).scores(sct)
    assert {name: scores[name] for name in SCORES} == found and set(found) == set(SCORES)
    assert scores["delta_d98"] < 0  # 20 HU too bright attenuates more
    np.testing.assert_array_equal(scores.doses.evaluated, doses.evaluated)


def test_a_structure_that_neither_volume_has_is_undefined(pair):
    ct, sct, mask = (x[:3] for x in pair)
    found = structure_scores(np.minimum(ct, 100), np.minimum(sct, 100), mask, SPACING_MM)
    assert np.isnan(found["bone.dice"]) and np.isnan(found["bone.hd95_mm"])
    assert np.isnan(found["bone.dice.penalised"]) and np.isnan(found["bone.hd95_mm.penalised"])
    found = structure_scores(np.minimum(ct, 100), np.where(mask, 300, sct), mask, SPACING_MM)
    assert found["bone.dice"] == 0 and np.isnan(found["bone.hd95_mm"])
    diagonal = np.sqrt(sum((n * mm) ** 2 for n, mm in zip(ct.shape, SPACING_MM, strict=True)))
    assert found["bone.hd95_mm.penalised"] == pytest.approx(diagonal)


def test_names_do_not_depend_on_the_volume(pair, scores):
    ct, sct, mask = pair
    unknown = sct_scores.score_ct(ct, sct, mask, None)
    one_slice = sct_scores.score_ct(*(x[5:6] for x in pair), SPACING_MM)
    for other in (unknown, one_slice):
        assert list(other) == list(scores)
        assert np.isnan([other[name] for name in sct_scores.DOSE_SCORES]).all()
    assert np.isnan(unknown["bone.hd95_mm"]) and unknown["bone.dice"] == scores["bone.dice"]
    assert one_slice["bone.hd95_mm"] > 0 and np.isnan(one_slice["synthrad2023.ssim"])
    json.dumps(json_case(unknown), allow_nan=False)


def test_only_what_is_asked_for(pair):
    scores = sct_scores.score_ct(*pair, SPACING_MM, protocols=["dm_pix_2d"], dose=False)
    assert {name.split(".")[0] for name in scores} == {"dm_pix_2d", "bone", "soft_tissue", "air"}


def test_every_score_has_a_protocol(scores):
    for name in scores:
        first, *metric = name.split(".")
        stated = first in sct_scores.PROTOCOLS or first.split("_")[0] in sct_scores.PROTOCOLS
        assert stated or metric[0] in sct_scores.PROTOCOLS, name
    for text in sct_scores.PROTOCOLS.values():
        assert "{" not in text


def test_means_over_patients(scores):
    worse = {name: value + 1 for name, value in scores.items()}
    summary = over_cases([scores, worse], ["a", "b"])
    assert summary["synthrad2023.mae"]["mean"] == pytest.approx(scores["synthrad2023.mae"] + 0.5)
    assert "gamma_2_2.best_control" in scores and "bone.dice.penalised" not in summary
    assert summary["gamma_2_2"]["interval_95"] == pytest.approx(
        (scores["gamma_2_2"], worse["gamma_2_2"])
    )
