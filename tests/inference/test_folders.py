"""Folders of inputs: all kinds are used, the rest is told, and a bad file may be skipped."""

import csv
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import jax_pix2pix
from configs import lidc_mask2ct, liver, xray_lungs
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.inference.folders import predict_files
from launch.predict import predict
from tests import untrained
from tests.imaging.test_dicom import write_series
from tests.imaging.test_xrays import DEEP, PIXELS, dicom

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    systems = {"xray": xray_lungs, "liver": liver, "lidc": lidc_mask2ct}
    for name, system in systems.items():
        config = system.get_config()
        config.data.image_size = 32
        config.generator.width = config.discriminator.width = 2
        if name != "liver":
            config.generator.depth = 5
        untrained.save(folder / name, config)
    return folder


def hu():
    return np.random.default_rng(0).integers(-1000, 900, (12, 10, 3)).astype(np.int16)


def save_ct(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu(), LPS), path)
    return path


def table(path):
    """{file: (what, why)}."""
    rows = csv.reader(path.read_text().splitlines()[1:])
    return {name: (what, why) for name, what, why in rows}


def test_xrays_of_every_kind_and_what_is_passed_over(runs, tmp_path, capfd):
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    (source / "mask").mkdir(parents=True)
    out.mkdir()
    Image.fromarray(PIXELS).save(out / "a.png")  # of an earlier run
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.png", "b.JPG", "mask/a.png"):
        Image.fromarray(PIXELS).save(source / name)
    Image.fromarray(DEEP).save(source / "c.tiff")
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(PIXELS).save(source / "e.jpg", exif=tags)
    dicom(source / "d")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    for name in (".hidden.png", "Thumbs.db", "SHA256SUMS", "list.csv", "f.nii.gz"):
        (source / name).write_bytes(b"x")
    predict(runs / "xray", str(source), str(out))
    rows = table(out / "files.csv")
    used = {name for name, (what, _) in rows.items() if what == "used"}
    assert used == {"a.png", "b.JPG", "c.tiff", "d", "e.jpg"}
    assert {name: why for name, (what, why) in rows.items() if what == "passed over"} == {
        ".hidden.png": "hidden",
        "SHA256SUMS": "a text or a table",
        "Thumbs.db": "made by the system",
        "f.nii.gz": "a volume, which this run does not take",
        "linked": "a linked folder, which is not followed",
        "list.csv": "a text or a table",
        "mask/a.png": "a mask",
        "out": "the folder of the results",
    }
    assert "percentiles" in rows["c.tiff"][1] and "orientation tag 6" in rows["e.jpg"][1]
    told = capfd.readouterr().out
    assert re.search(rf"^files of {source}: 5 used, 8 passed over \(", told, re.MULTILINE)
    assert "1 a linked folder, which is not followed: linked" in told
    with Image.open(out / "e.png") as mask:  # on the upright picture
        assert mask.size == PIXELS.shape


def test_nifti_and_dicom_patients_are_both_used(runs, tmp_path):
    save_ct(tmp_path / "in" / "p1" / "volume-1.NII.gz")
    (tmp_path / "in" / "p2").mkdir()
    write_series(tmp_path / "in" / "p2" / "ct", hu().transpose())
    (tmp_path / "in" / "p2" / "ct" / "DICOMDIR").write_bytes(b"x")
    predict(runs / "liver", str(tmp_path / "in"), str(tmp_path / "out"))
    assert (tmp_path / "out" / "p1" / "prediction-1.nii.gz").exists()
    assert (tmp_path / "out" / "p2" / "ct.nii.gz").exists()
    found = table(tmp_path / "out" / "files.csv")
    assert found.pop("p2/ct/DICOMDIR") == ("passed over", "a text or a table")
    assert found.keys() == {"p1/volume-1.NII.gz", "p2/ct"}
    assert all(what == "used" and "covers" in why for what, why in found.values())


def test_a_volume_beside_a_series_is_no_matter_of_luck(runs, tmp_path):
    folder = write_series(tmp_path / "in", hu().transpose())
    save_ct(folder / "seg.nii.gz")
    with pytest.raises(DataError, match=r"in/seg.nii.gz lies beside a DICOM series, 0.dcm and so"):
        predict(runs / "liver", str(folder), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [pytest.param("volume", marks=pytest.mark.slow), "series"])
def test_a_file_for_one_result(runs, tmp_path, kind):
    path = save_ct(tmp_path / "ct.nii")
    if kind == "series":
        path = write_series(tmp_path / "in", hu().transpose())
    predict(runs / "liver", str(path), str(tmp_path / "new" / "mask.nii.gz"))
    mask = nib.load(tmp_path / "new" / "mask.nii.gz")
    assert sorted(mask.shape) == [3, *sorted(hu().shape[:2])]
    names = {"mask.nii.gz"} | ({"mask_files.csv"} if kind == "series" else set())
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    folder = save_ct(tmp_path / "two" / "a.nii").parent
    with pytest.raises(DataError, match=r"mask.nii.gz is one file and .*two a folder"):
        predict(runs / "liver", str(folder), str(tmp_path / "mask.nii.gz"))


@pytest.mark.parametrize("run", ["lidc", pytest.param("xray", marks=pytest.mark.slow)])
def test_a_bad_file_stops_all_or_is_skipped(runs, tmp_path, capfd, run):
    for name in ("a", "c"):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS % 3).save(path)
    (tmp_path / "in" / "b.png").write_bytes(b"text")
    arguments = runs / run, str(tmp_path / "in"), str(tmp_path / "out")
    bad = re.escape(f"{tmp_path}/in/b.png cannot be read as a PNG")
    with pytest.raises(DataError, match=f"^{bad}"):
        predict(*arguments)
    rows = table(tmp_path / "out" / "files.csv")
    assert rows["b.png"][0] == "failed" and rows["c.png"][0] == "not reached"
    with pytest.raises(
        DataError, match=f"^1 of 3 inputs failed, see .*files.csv; the first: {bad}"
    ):
        predict(*arguments, on_error="skip")
    assert [what for what, _ in table(tmp_path / "out" / "files.csv").values()] == [
        "used", "failed", "used"
    ]  # fmt: skip
    assert "2 used, 1 failed (b.png)" in capfd.readouterr().out
    for name in ("a", "c"):
        assert (tmp_path / "out" / f"{name}.png").exists()
        (tmp_path / "in" / f"{name}.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"^all 3 inputs failed, see"):
        predict(*arguments, on_error="skip")
    with pytest.raises(ConfigError, match="on_error=go: use stop or skip"):
        predict(*arguments, on_error="go")


def test_the_library_takes_homes_and_skips_too(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "in" / "a.png")
    (tmp_path / "runs").symlink_to(runs)
    run = jax_pix2pix.load("~/runs/xray")
    ((path, written, _),) = predict_files(run, "~/in", "~/out", on_error="skip")
    assert (path, written) == (f"{tmp_path}/in/a.png", [f"{tmp_path}/out/a.png"])
    run.predict("~/in/a.png").save("~/saved/a.png")
    assert (tmp_path / "saved" / "a.png").read_bytes() == (tmp_path / "out/a.png").read_bytes()
    assert list(table(tmp_path / "out" / "files.csv")) == ["a.png"]
