"""Pairs are looked at in preparation: overlap, the page, and images of two patients."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from input_pipeline.datasets.mri_ct import mri_ct_dataset_builder as mri_ct
from input_pipeline.preparation import pairs
from input_pipeline.preparation.checks import Checks
from input_pipeline.preparation.pairs import Pair, measure
from input_pipeline.preparation.pseudonyms import TrueNames
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation import pairs_page
from jax_pix2pix.runs.known_patients import read_known
from tests.input_pipeline.datasets.test_xray_lungs import write_layout
from tests.input_pipeline.pairs import body, write_pair

OPTIONS = {"stored_size": 32, "test_fraction": 0.3, "validation_fraction": 0.3}
PATIENTS = ("1BA001", "1BA002", "1BA003", "1BA004")


@pytest.fixture
def source(tmp_path):
    for seed, patient in enumerate(PATIENTS):
        write_pair(tmp_path / "source" / patient, seed, ".mha", mask=False)
    return tmp_path / "source"


def change_ct(folder, change):
    """Replaces what the CT shows by change(values [slices, rows, columns])."""
    path = str(folder / "ct.mha")
    picture = sitk.ReadImage(path)
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(picture)))
    changed.CopyInformation(picture)
    sitk.WriteImage(changed, path)


def in_a_corner(values):
    values = np.full_like(values, -1000)
    values[:, :5, :6] = 40
    return values


def page_of(directory):
    return (directory / "pairs.html").read_text()


def rows_of(html):
    """The texts of the table's cells, by row."""
    table = html[html.index("worst first</h2>") :]
    rows = re.findall("<tr>(.*?)</tr>", table)
    return [re.findall("<td>(.*?)</td>", row) for row in rows if "<td>" in row]


def test_a_pair_that_does_not_overlap_is_refused(source, tmp_path):
    change_ct(source / "1BA002", in_a_corner)
    with pytest.raises(DataError) as caught:
        prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    message = str(caught.value)
    assert f"{source}/1BA002/mr.mha and {source}/1BA002/ct.mha do not overlap" in message
    assert "Dice of the bodies 0.0" in message and "\n" not in message
    assert not list((tmp_path / "data").rglob("pairs.html"))


def test_a_poor_pair_is_warned_of_and_first_on_the_page(source, tmp_path, capsys):
    change_ct(source / "1BA003", lambda values: np.roll(values, 9, 1))
    directory = prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    (warning,) = re.findall("warning: .* fit poorly.*", capsys.readouterr().out)
    assert (
        "1 of 4 pairs fit poorly (Dice of the bodies below 0.7), worst 1BA003/mr.mha and" in warning
    )
    assert warning.endswith("look at pairs.html there")
    html = page_of(directory)
    rows = rows_of(html)
    assert rows[0][0] == "1BA003" and len(rows) == 4
    assert rows[0][2].endswith("!") and 0.3 < float(rows[0][2][:-1]) < 0.7
    assert all(float(row[2]) > 0.9 and 1 < float(row[3]) < 2 for row in rows[1:])
    assert html.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", html)  # it loads nothing


def test_with_pseudonyms_the_page_has_these_alone(source, tmp_path):
    key = tmp_path / "key.json"
    html = page_of(prepare("mri_ct", source, tmp_path / "data", pseudonyms=key, **OPTIONS))
    known = json.loads(key.read_text())["patients"]
    assert {row[0] for row in rows_of(html)} == known.keys()
    assert not any(patient in html for patient in PATIENTS) and str(source) not in html


def test_with_pseudonyms_each_of_two_masks_has_its_own(tmp_path):
    source, key = write_layout(tmp_path / "source", "montgomery"), tmp_path / "key.json"
    html = page_of(prepare("xray_lungs", source, tmp_path / "data", 0, key, stored_size=16))
    files = json.loads(key.read_text())["files"]
    seen = {files[code] for code in re.findall(r"/(F[A-Z2-7]{12})", html)}
    assert seen == {str(path.relative_to(source)) for path in source.rglob("*.png")}


@pytest.mark.parametrize("name", ["manifest.csv", "pairs.html"])
def test_what_is_written_follows_no_link(tmp_path, name):
    own = tmp_path / "own.txt"
    own.write_text("kept")
    (tmp_path / name).symlink_to(own)
    if name == "pairs.html":
        pairs_page.write(tmp_path / name, "Pairs", {}, [], "Dice", False)
    else:
        Checks(tmp_path, TrueNames(), {}, 16, None, None).write(tmp_path, [])
    assert own.read_text() == "kept" and not (tmp_path / name).is_symlink()


def test_finished_shards_are_measured_again(source, tmp_path, monkeypatch):
    """A killed preparation has measured its first shards; the next one makes the same page."""
    write_pair(source / "1BA009", 0, ".mha", mask=False)  # as 1BA001, which is warned of
    whole = prepare("mri_ct", source, tmp_path / "whole", **OPTIONS)
    place = tmp_path / "data" / whole.relative_to(tmp_path / "whole")
    left = place.with_name(f"incomplete.0_{place.name}")
    left.mkdir(parents=True)
    for path in (whole / "preparation.json", *whole.glob("mri_ct-train.*")):
        shutil.copy(path, left)
    read = mri_ct.Builder.read
    seen = []
    monkeypatch.setattr(
        mri_ct.Builder, "read", lambda *given: seen.append(given[2]) or read(*given)
    )
    again = prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    assert again == place and len(seen) == 3  # of validation and test
    for name in ("pairs.html", "manifest.csv", "preparation.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_two_patients_of_one_image_are_told_of(source, tmp_path, capsys):
    write_pair(source / "1BA009", 0, ".mha", mask=False)  # as 1BA001
    directory = prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    told = re.findall("warning: 1 pictures are of two patients each, .*", capsys.readouterr().out)
    assert len(told) == 1 and "1BA001/mr.mha of 1BA001 in" in told[0] and "of 1BA009 in" in told[0]
    assert json.loads((directory / "preparation.json").read_text())["warnings"] == told
    assert prepare("mri_ct", source, tmp_path / "data", **OPTIONS) == directory
    assert told[0] in capsys.readouterr().out.splitlines()
    directory = prepare("mri_ct", source, tmp_path / "other", 0, tmp_path / "key", **OPTIONS)
    (warning,) = json.loads((directory / "preparation.json").read_text())["warnings"]
    assert "1 pictures are of two patients each" in warning and "1BA00" not in warning
    directory = tmp_path / "data" / directory.relative_to(tmp_path / "other")
    known = {one.patient: one for one in read_known(directory)}
    assert known["1BA001"].pixels == known["1BA009"].pixels != known["1BA002"].pixels
    with (directory / "manifest.csv").open() as file:
        assert {row["examples"] for row in csv.DictReader(file)} == {"7"}


def records(image, second, name):
    return [
        {"image": one[..., None], name: other[..., None]}
        for one, other in zip(image, second, strict=True)
    ]


def test_what_is_measured():
    inside = body((20, 64, 64))
    rng = np.random.default_rng(0)
    hu = np.where(inside, rng.integers(0, 90, inside.shape), -1000).astype(np.int16)
    organ = np.zeros(inside.shape, np.uint8)
    organ[6:9, 24:40, 24:40] = 1
    found = measure(records(hu, organ, "mask"), Pair("mask", is_mask=True))
    assert found.overlap == 1 and found.shown == (6, 7, 8) and len(found.pixels) == 256
    moved = measure(records(hu, np.roll(organ, 24, (1, 2)), "mask"), Pair("mask", is_mask=True))
    assert moved.overlap < pairs.POOR and moved.mutual_information < found.mutual_information
    none = measure(records(hu, 0 * organ, "mask"), Pair("mask", is_mask=True))
    assert none.overlap is None and none.shown == ()
    same = measure(records(hu, hu, "ct"), Pair("ct", is_mask=False))
    assert same.overlap == 1 and same.mutual_information == pytest.approx(2)
    for must_overlap, refused in ((True, True), (False, False)):
        pair = Pair("mask", is_mask=True, must_overlap=must_overlap)
        assert pairs.lies_apart(moved._replace(inside=0), pair) == refused


def test_a_page_of_many_pairs_is_bounded():
    rows = [
        pairs_page.Row(f"P{n:04d}", "train", "a", "b", 1, 9, n / 4000, 1.5, False)
        for n in range(4000)
    ]
    ranked = pairs_page.ranked([*rows[::-1], rows[0]._replace(patient="X", overlap=None)])
    assert ranked[:4000] == rows and ranked[-1].patient == "X"
    chosen = pairs_page.chosen(ranked)
    assert chosen[:20] == list(range(20)) and len(set(chosen)) == 30 and chosen == sorted(chosen)


def test_the_page_escapes_names_and_leaves_out_the_best(tmp_path):
    rows = [
        pairs_page.Row("<b>\x1b", "train", "a", "b", 2, 9, 0.5, None, True) for _ in range(2500)
    ]
    pairs_page.write(tmp_path / "pairs.html", "Pairs", {"pairs": 2500}, rows, "Dice", False)
    html = (tmp_path / "pairs.html").read_text()
    assert "&lt;b&gt;\\x1b" in html and "<b>\x1b" not in html and "a and 1 more" in html
    assert f"{pairs_page.TABLE} of 2500 pairs" in html and len(html) < 10**6
