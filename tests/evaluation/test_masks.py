"""Scores of patients' masks: spacing, gaps between slices, components, regions."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score

from configs.liver import get_config
from jax_pix2pix.evaluation.masks import note_unknown, score_patients, with_unknown_spacing
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.metrics.mask_scores import over_cases
from jax_pix2pix.metrics.surface_distance import surface_distances
from jax_pix2pix.tasks.segmentation import segmentation

SPACING = (3.0, 2.0, 1.5)
# A ball of radius 6 in the plane, and the same ball two columns to the right.
Z, Y, X = np.mgrid[-2.5:3, -12:12, -12:12]
REFERENCE = (2 * Z) ** 2 + Y**2 + X**2 < 36
PREDICTED = np.roll(REFERENCE, 2, axis=2)


def _scores(places=range(6), components=0, per="volume", predicted=PREDICTED, spacing=SPACING):
    config = get_config("tumour")
    config.evaluation.per = per
    task = segmentation(config, classes=3, probabilities=lambda fake: fake)
    tumour = predicted & (np.arange(24) < 12)
    pairs = {"liver": (predicted, REFERENCE), "tumour": (tumour, REFERENCE & False)}
    found = [(np.arange(6), pairs)]
    scores, _ = score_patients(task, found, list(places), [spacing] * 6, components)
    return scores


def test_a_volume_is_scored_whole_and_its_images_one_by_one():
    scores = _scores()
    ((slices, volume),) = scores["liver", "volume"]
    assert slices == list(range(6))
    assert volume["dice"] == pytest.approx(f1_score(REFERENCE.ravel(), PREDICTED.ravel()))
    expected = surface_distances(PREDICTED, REFERENCE, SPACING)
    assert {name: volume[name] for name in expected} == expected and expected["hd95_mm"] > 0
    for i, (slices, image) in enumerate(scores["liver", "image"]):
        assert slices == [i] and "hd95_mm" not in image
        assert image["dice"] == pytest.approx(f1_score(REFERENCE[i].ravel(), PREDICTED[i].ravel()))


def test_images_have_distances_in_the_plane():
    scores = _scores(per="image")
    assert ("liver", "volume") not in scores
    for i, (_, image) in enumerate(scores["liver", "image"]):
        expected = surface_distances(PREDICTED[i], REFERENCE[i], SPACING[1:])
        assert image["assd_mm"] == pytest.approx(expected["assd_mm"], nan_ok=True)


def test_slices_with_gaps_between_them_have_no_distances():
    ((_, volume),) = _scores(places=[0, 1, 2, 4, 5, 6])["liver", "volume"]
    assert "hd95_mm" not in volume and volume["dice"] > 0


def test_patients_of_unknown_spacing_are_named_and_means_leave_them_out():
    ((_, known),) = _scores()["liver", "volume"]
    ((_, unknown),) = _scores(spacing=(0, 0, 0))["liver", "volume"]
    assert "hd95_mm" not in unknown
    for cases in ([known, unknown], [unknown, known]):
        summary = over_cases(cases, ["a", "b"])
        assert (summary["hd95_mm"]["cases"], summary["hd95_mm"]["undefined"]) == (1, 1)
        assert summary["hd95_mm"]["mean"] == known["hd95_mm"]
        assert summary["dice"]["cases"] == 2
    spacings = {"b": (0, 0, 0), "a": SPACING, "picture": (0, 1, 1), "c": (0, 0, 0)}
    examples = [SimpleNamespace(patient=name, spacing_mm=mm) for name, mm in spacings.items()]
    assert with_unknown_spacing(examples) == ["b", "c"]
    assert note_unknown(["b", "c"]) == [f"{UNKNOWN} of b, c"] and note_unknown([]) == []
    assert note_unknown(list("abcdefg")) == [f"{UNKNOWN} of a, b, c, d, e and 2 more"]


def test_the_largest_component_of_all_regions_together_is_kept():
    noise = np.zeros_like(PREDICTED)
    noise[:, 1:3, 1:3] = True
    labels, _ = ndimage.label(PREDICTED | noise, np.ones((3, 3, 3)))
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    cleaned = _scores(components=1, predicted=PREDICTED | noise)
    assert str(cleaned) == str(_scores(predicted=largest))  # NaN is not equal to itself
    assert str(cleaned) != str(_scores(predicted=PREDICTED | noise))
    # If slices are missing, slices are cleaned one by one.
    apart = _scores([0, 1, 2, 4, 5, 6], components=1, predicted=PREDICTED | noise)
    for i, (_, image) in enumerate(apart["liver", "image"]):
        labels, count = ndimage.label((PREDICTED | noise)[i], np.ones((3, 3)))
        kept = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1 if count else labels > 0
        assert image["dice"] == pytest.approx(f1_score(REFERENCE[i].ravel(), kept.ravel()))


def test_holes_are_filled_with_the_regions_around_them():
    hole = PREDICTED & ~((Y**2 + (X - 2) ** 2 < 5) & (abs(Z) < 2))
    assert hole.sum() < PREDICTED.sum()
    assert str(_scores(predicted=hole)) != str(_scores())
    config = get_config("tumour")
    task = segmentation(config, classes=3, probabilities=lambda fake: fake)
    pairs = {"liver": (hole, REFERENCE), "tumour": (hole & (Z < 0), REFERENCE & False)}
    found = [(np.arange(6), pairs)]
    scores, _ = score_patients(task, found, list(range(6)), [SPACING] * 6, 0, True)
    ((_, liver),), ((_, tumour),) = scores["liver", "volume"], scores["tumour", "volume"]
    ((_, whole),) = _scores()["liver", "volume"]
    assert liver == whole
    # The hole of slices 1 and 2 is tumour, that of 3 and 4 is not, as their surroundings.
    without = tumour["specificity"] * PREDICTED.size  # the reference has no tumour
    assert without == pytest.approx((~(PREDICTED & (Z < 0))).sum())


def test_a_mask_at_the_border_of_its_picture_is_noted():
    config = get_config("tumour")
    task = segmentation(config, classes=3, probabilities=lambda fake: fake)
    predicted = PREDICTED.copy()
    predicted[4, :, -1] = True  # 24 of 92
    pairs = {"liver": (predicted, REFERENCE), "tumour": (predicted & False, REFERENCE)}
    _, notes = score_patients(
        task, [(np.arange(10, 16), pairs)], list(range(16)), [SPACING] * 16, 0
    )
    assert list(notes) == [14] and "covers 26 % of the picture's border" in notes[14]
