"""The report's page and its pictures."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation import report, report_pictures
from jax_pix2pix.metrics.dose import Dosimetry, dvh
from jax_pix2pix.metrics.mask_scores import over_cases

SCORES = {name: 1.0 for name in report.HEADLINE} | {"gamma_2_2": 1.0, "air.hd95_mm": np.nan}


def page(name="p1", scores=SCORES):
    summaries = {"model": over_cases([scores, scores | {"gamma_2_2": 97.123}], ["p1", "p2"])}
    summaries["model"]["gamma_2_2"]["does_not_tell"] = True
    summaries["control: water"] = over_cases([{"gamma_2_2": 99.5}], ["p1"])
    known = {metric: None if np.isnan(value) else value for metric, value in scores.items()}
    patients = [report.PatientPage(name, 3, known, ["range.mean_mm"], b"slices", None)]
    return report.page("Title", {"split": "test"}, summaries, patients, {"gamma": "g < 1"}, {})


def volume(depth=20):
    """(source, ct, sct, mask): a body of 40 HU in air; sct is 100 HU too bright at upper left."""
    mask = np.zeros((depth, 60, 50), bool)
    mask[:, 20:50, 10:40] = True
    ct = np.where(mask, 40, -1000)
    sct = ct + np.where(np.indices(mask.shape)[1] < 35, 100, 0)
    return np.where(mask, 9000, 0).astype(np.uint16), ct, sct, mask


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_what_is_no_number_is_told_by_its_name(tmp_path):
    results = {"results": {"model": [1.0, {"mae": float("nan")}]}}
    with pytest.raises(
        DataError, match=r"test.json is not written, since results.model.1.mae is n"
    ):
        report.write_json(tmp_path / "test.json", results)
    assert not list(tmp_path.iterdir())


def test_names_of_patients_are_text_not_markup():
    text = page(name="<script>alert(1)</script>")
    assert "<script>" not in text and "&lt;script&gt;" in text and "g &lt; 1" in text


def test_a_page_that_holds_what_acts_is_written_and_loads_nothing():
    text = page(name="\"' onload=alert(1) \x1b\udcff\u202e")
    text.encode()
    assert r"of &#34;&#39; onload=alert(1) \x1b\xff\u202e" in text
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'http-equiv="Content-Security-Policy" content="{policy}' in text
    used = set(re.findall(r' (?:src|href|on\w+)="?(\w+:)', text))
    assert used == {"data:"} and "<script" not in text


def test_table_has_means_intervals_and_units():
    text = page()
    row = "<td>gamma_2_2</td><td>%</td><td>49.06 [1, 97.12], does not tell</td><td>99.5</td>"
    assert row in text and "<th>control: water</th>" in text
    assert "range.mean_mm <b>1</b> mm (does not tell) · " in text
    assert "gamma_2_2" not in report.HEADLINE and "gamma_local_1_1 <b>1</b> % · " in text
    assert "<td>air.hd95_mm</td><td>mm</td><td>undefined</td><td></td>" in text
    units = {
        "synthrad2025.ms_ssim": "",
        "dm_pix_2d.psnr": "dB",
        "delta_d98": "% of the prescription",
    }
    assert {name: report.unit(name) for name in units} == units


def test_difference_is_red_where_the_synthetic_ct_is_too_bright():
    picture = pixels(report_pictures.slices_picture(*volume(), (2.0, 1.0, 1.0)))
    red, green, blue = np.moveaxis(picture, -1, 0)
    coloured = (red > blue + 60) & (red > green + 60)
    columns = np.flatnonzero(coloured.any(0))
    assert columns.min() > 0.7 * picture.shape[1]  # only in the last column
    assert not ((blue > red + 60) & (blue > green + 60))[:, : columns.max() - 60].any()


@pytest.mark.parametrize(
    ("depth", "spacing_mm", "rows"),
    [(1, (2.0, 1.0, 1.0), 1), (2, None, 1), (20, None, 3), (20, (2.0, 1.0, 1.0), 5)],
)
def test_deep_volumes_of_known_spacing_are_shown_from_three_sides(depth, spacing_mm, rows):
    planes = report_pictures.planes_of(volume(depth)[-1], spacing_mm)
    assert len(planes) == rows
    pixels(report_pictures.slices_picture(*volume(depth), spacing_mm))
    if rows == 5:
        values = np.indices((20, 60, 50))
        coronal, sagittal = (values[(slice(None), *plane.place)] for plane in planes[3:])
        assert (coronal[0][:, 0] == np.arange(20)[::-1]).all()  # the head is at the top
        assert np.unique(coronal[1]) == [34] and np.unique(sagittal[2]) == [24]  # the middle
        assert (sagittal[0][:, 0] == np.arange(20)[::-1]).all()
        assert planes[3].shape_mm == (40, 50) and planes[4].shape_mm == (40, 60)


def test_dose_volume_curves_are_drawn(monkeypatch):
    _, ct, sct, mask = volume()
    _, doses = Dosimetry(ct, mask, (2.0, 1.0, 1.0)).scores(sct)
    drawn = []

    def recorded(dose, structure, levels):
        drawn.append((dose, structure))
        return dvh(dose, structure, levels)

    monkeypatch.setattr(report_pictures, "dvh", recorded)
    picture = pixels(report_pictures.dvh_picture(doses))
    assert len(drawn) == 4 and drawn[0][0] is doses.reference and drawn[1][0] is doses.evaluated
    assert drawn[0][1] is doses.target and drawn[3][1] is doses.body
    red, _, blue = np.moveaxis(picture, -1, 0)
    assert (red > blue + 60).sum() > 200 and (blue > red + 60).sum() > 200
