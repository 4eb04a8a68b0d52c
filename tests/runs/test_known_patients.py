"""A patient of training or validation is known again, by name and by pixels."""

import numpy as np
import pytest

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.pixel_prints import pixel_print
from jax_pix2pix.runs.known_patients import (
    BEFORE,
    COLUMNS,
    MANIFEST,
    Known,
    read_known,
    scored_and_seen,
    seen_table,
    sightings,
)
from jax_pix2pix.safety.tables import csv_text

IMAGES = {name: np.random.default_rng(ord(name)).random((4, 16, 17)) for name in "abcd"}
PRINTS = {name: pixel_print(planes) for name, planes in IMAGES.items()}
KNOWN = [
    Known("train", "1BA001", "Task1/brain/1BA001/mr.nii.gz", PRINTS["a"]),
    Known("validation", "00000003", "img/00000003_001.png", PRINTS["b"]),
    Known("test", "1BA007", "Task1/brain/1BA007/mr.nii.gz", PRINTS["c"]),
]


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("1BA001", "1BA001"),
        ("/clinic/1ba001/mr.nii.gz", "1BA001"),
        ("/clinic/1BA001.mha", "1BA001"),
        ("/clinic/1BA001_0000.nii.gz", "1BA001"),
        ("other/00000003_017.png", "00000003"),
        ("/clinic/1BA002/mr.nii.gz", None),  # as all files are called
        ("/clinic/1BA0011.mha", None),
        ("/clinic/1BA007/mr.nii.gz", None),  # of the test
        ("", None),
    ],
)
def test_by_name(path, patient):
    found = sightings(KNOWN, path)
    assert [one.known.patient for one in found] == ([patient] if patient else [])
    assert all(one.by == "name" for one in found)


def test_by_pixels_whatever_the_name():
    (found,) = sightings(KNOWN, "anonymous.mha", IMAGES["a"] * 5 - 1000)
    assert found.by == "pixels" and found.known.split == "train"
    assert str(found) == "Task1/brain/1BA001/mr.nii.gz of patient 1BA001 in train, by pixels"
    assert not sightings(KNOWN, "anonymous.mha", IMAGES["d"])
    assert not sightings(KNOWN, "anonymous.mha", IMAGES["c"])  # of the test
    both = sightings(KNOWN, "1BA001.mha", IMAGES["b"])
    assert [(one.by, one.known.patient) for one in both] == [
        ("pixels", "00000003"), ("name", "1BA001"),
    ]  # fmt: skip


def test_pseudonyms_are_known_by_their_key_or_by_pixels():
    known = [KNOWN[0]._replace(patient="PABC", file_name="PABC/F1")]
    assert not sightings(known, "/clinic/1BA001/mr.nii.gz")
    assert sightings(
        known, "/clinic/1BA001/mr.nii.gz", shown=lambda name: "PABC" if name == "1BA001" else "P"
    )
    assert sightings(known, "/clinic/1BA001/mr.nii.gz", IMAGES["a"])


def test_the_record_is_read_or_refused(tmp_path):
    rows = [[*one[:3], 9, one.pixels] for one in KNOWN]
    (tmp_path / MANIFEST).write_text(csv_text(COLUMNS, rows))
    assert read_known(tmp_path) == KNOWN
    (tmp_path / MANIFEST).write_text(csv_text(COLUMNS[:4], [row[:4] for row in rows]))
    with pytest.raises(DataError, match="does not tell which patients were trained on"):
        read_known(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_known(tmp_path / "nowhere")


def test_who_another_run_saw_counts_for_one_that_begins_with_its_weights(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, rows in ((first, KNOWN), (second, [KNOWN[2]._replace(split="train")])):
        folder.mkdir()
        (folder / MANIFEST).write_text(csv_text(Known._fields, rows))
    (second / BEFORE).write_text(seen_table(first))
    known = read_known(second)
    assert {one.patient for one in known} == {"1BA001", "00000003", "1BA007"}
    assert scored_and_seen(known, [KNOWN[0]._replace(split="test")]) == {"1BA001": "name"}
    (first / MANIFEST).unlink()
    with pytest.raises(DataError, match="does not tell which patients were trained on"):
        seen_table(first)


def test_who_of_the_scored_patients_was_seen():
    other = [
        Known("test", "1BA001", "x/1BA001.nii", ""),
        Known("test", "new", "x/new.nii", PRINTS["b"]),
        Known("test", "unseen", "x/unseen.nii", PRINTS["d"]),
        Known("test", "of the test", "x/of.nii", PRINTS["c"]),
    ]
    assert scored_and_seen(KNOWN, other) == {"1BA001": "name", "new": "pixels"}
    assert scored_and_seen([], other) == {}
