"""The embedded chest CT slices, and the script that makes all samples."""

import gzip
import io
import os
import re
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import samples
from input_pipeline.samples import reproducible_files

SAMPLES = Path(samples.__file__).parent
CHEST_CT = SAMPLES / "chest_ct"
PIXEL_MM2 = 2.5**2
# Slice spacing, and the lung volume of the same scan thresholded at -400 HU (for TS-CTA-0001 less
# its trachea and main bronchi, about 0.1 l).
SPACING_MM = {"TS-CTA-0001": 1.5, "PR-LUNG1-0001": 5.0}
LUNGS_ML = {"TS-CTA-0001": 4040, "PR-LUNG1-0001": 2774}
SLICE_NAME = re.compile(r"(?P<patient>[A-Za-z0-9-]+)_slice_(?P<k>\d{4})\.png")


@pytest.fixture
def make():
    """The script that makes the samples. It needs SimpleITK; reading them does not."""
    pytest.importorskip("SimpleITK")
    from input_pipeline.samples import make

    return make


def slices():
    """Yields (split, kind, patient, path of the slice, path of its mask) of every slice."""
    for png in sorted(CHEST_CT.glob("*/*/*.png")):
        split, kind = png.parts[-3:-1]
        match = SLICE_NAME.fullmatch(png.name)
        assert match, png
        word = {"with_nodules": "combined", "clean": "lung"}[kind]
        mask = png.with_name(f"{match['patient']}_{word}_mask_{match['k']}.npy")
        yield split, kind, match["patient"], png, mask


def masks_by_patient():
    found = defaultdict(list)
    for *_, patient, _, mask in slices():
        found[patient].append(np.load(mask, allow_pickle=False))
    return {patient: np.stack(masks) for patient, masks in found.items()}


def test_files_match_their_hashes(make):
    make.check(SAMPLES)


def test_check_names_the_first_file_that_differs(make, tmp_path, capsys):
    folder = tmp_path / "chest_ct" / "train" / "clean"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(name.encode())
    sums = "".join(f"{digest}  {path}\n" for path, digest in make.hashes(tmp_path).items())
    (tmp_path / "SHA256SUMS").write_text(sums)
    assert make.main(["--check", f"--output={tmp_path}"]) == 0
    (folder / "b.png").write_bytes(b"doctored")
    (folder / "c.png").unlink()
    assert make.main(["--check", f"--output={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "b.png" in error and "c.png" not in error


def test_layout_is_complete():
    found = list(slices())
    assert 180 <= len(found) <= 220
    assert {(split, kind) for split, kind, *_ in found} == {
        ("train", "clean"),
        ("test", "clean"),
        ("test", "with_nodules"),
    }
    files = {path for path in CHEST_CT.rglob("*") if path.is_file()}
    assert files == {path for *_, png, mask in found for path in (png, mask)}
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_no_patient_is_in_two_splits():
    splits = defaultdict(set)
    for split, _, patient, *_ in slices():
        splits[patient].add(split)
    assert splits == {"TS-CTA-0001": {"train"}, "PR-LUNG1-0001": {"test"}}


def test_slices_and_masks_are_well_formed():
    for _, kind, _, png, path in slices():
        mask = np.load(path, allow_pickle=False)
        with Image.open(png) as image:
            assert image.mode == "L" and image.size == mask.shape[::-1] == (128, 128), png
            assert np.ptp(np.asarray(image)) > 200, png  # neither blank nor badly windowed
        assert mask.dtype == np.uint8 and mask.flags.c_contiguous, path
        classes = {0, 1, 2} if kind == "with_nodules" else {0, 1}
        assert set(np.unique(mask).tolist()) == classes, path


def test_lung_is_dark_and_nodule_is_not():
    """Ties the masks to the pictures: a shifted or flipped mask would mix the classes."""
    for _, _, _, png, path in slices():
        with Image.open(png) as image:
            ct = np.asarray(image).astype(float)
        mask = np.load(path, allow_pickle=False)
        lung = ct[mask == 1].mean()
        assert lung < 70, png  # about -600 HU: lung with its vessels
        # A ring about the lungs is chest wall, mediastinum and diaphragm, some of it airway.
        grown = mask > 0
        for _ in range(2):
            grown = grown | np.roll(grown, 1, 0) | np.roll(grown, -1, 0)
            grown = grown | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
        assert ct[grown & (mask == 0)].mean() > lung + 60, png
        if (mask == 2).any():
            assert ct[mask == 2].mean() > lung + 40, png


@pytest.mark.parametrize("patient", sorted(LUNGS_ML))
def test_lung_volume_is_that_of_the_scan(patient):
    masks = masks_by_patient()[patient]
    volume_ml = (masks == 1).sum() * PIXEL_MM2 * SPACING_MM[patient] / 1000
    assert volume_ml == pytest.approx(LUNGS_ML[patient], rel=0.06)


def test_nodule_volume_is_that_of_the_label():
    masks = masks_by_patient()["PR-LUNG1-0001"]
    volume_ml = (masks == 2).sum() * PIXEL_MM2 * SPACING_MM["PR-LUNG1-0001"] / 1000
    assert volume_ml == pytest.approx(837 * 0.5703125**2 * 5 / 1000, rel=0.15)


def make_archives(make, monkeypatch, folder, leave_out=()):
    """Makes stand-ins for all archives, pinned by their hashes."""
    folder.mkdir()
    archives = []
    for archive in make.ARCHIVES:
        path = folder / f"{archive.package}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for member in {archive.licence, *archive.volumes.values()} - {*leave_out}:
                info = tarfile.TarInfo(f"{archive.package}/{member}")
                info.size = 4
                tar.addfile(info, io.BytesIO(b"data"))
        archives.append(archive._replace(sha256=make.sha256_of(path)))
    monkeypatch.setattr(make, "ARCHIVES", tuple(archives))


def refuses(make, capsys, tmp_path, packages):
    """Runs `make` into a folder with earlier results; returns its one line of complaint."""
    output = tmp_path / "output"
    (output / "chest_ct").mkdir(parents=True)
    (output / "SHA256SUMS").write_text("earlier\n")
    assert make.main([f"--output={output}", f"--packages={packages}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sorted(path.name for path in output.iterdir()) == ["SHA256SUMS", "chest_ct"]
    assert (output / "SHA256SUMS").read_text() == "earlier\n"
    return error


def test_refuses_an_archive_with_a_wrong_hash(make, tmp_path, monkeypatch, capsys):
    make_archives(make, monkeypatch, tmp_path / "packages")
    doctored = tmp_path / "packages" / "pyradiomics-3.0.1.tar.gz"
    with doctored.open("ab") as file:
        file.write(b"\0")
    error = refuses(make, capsys, tmp_path, tmp_path / "packages")
    assert "pyradiomics-3.0.1.tar.gz" in error and "SHA-256" in error


def test_refuses_an_archive_without_the_volume(make, tmp_path, monkeypatch, capsys):
    make_archives(make, monkeypatch, tmp_path / "packages", leave_out=("data/lung1_label.nrrd",))
    error = refuses(make, capsys, tmp_path, tmp_path / "packages")
    assert "data/lung1_label.nrrd" in error


def test_refuses_a_folder_without_the_archives(make, tmp_path, capsys):
    error = refuses(make, capsys, tmp_path, tmp_path)
    assert "totalsegmentator-2.18.0.tar.gz is missing: put it there" in error


def test_says_which_step_of_the_download_failed(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(make.MakeError, match="could not make an environment"):
        make.download(tmp_path)


@pytest.mark.parametrize(
    "name", ["chest_ct", "xray_simulated", "abdomen_ct", "brain_templates", "chest_volumes"]
)
def test_leaves_a_data_set_alone_that_it_did_not_make(make, name, tmp_path, capsys):
    (tmp_path / name).mkdir()
    assert make.main([f"--output={tmp_path}"]) == 1
    assert "will not be replaced" in capsys.readouterr().err


def test_window_maps_its_ends_and_clips(make):
    hu = np.array([-3024.0, -1000.0, -300.0, 400.0, 3071.0])
    assert make.chest_ct.window_to_uint8(hu).tolist() == [0, 0, 128, 255, 255]


def test_files_of_one_name_are_kept_apart(make, tmp_path, monkeypatch):
    """Two of the archive's volumes are called example_ct.nii.gz."""
    make_archives(make, monkeypatch, tmp_path / "packages")
    files = make.extract(make.ARCHIVES[0], tmp_path / "packages", tmp_path)
    assert len(set(files.values())) == len(files) == 5


def test_gzip_is_read_back_and_holds_no_time(tmp_path):
    content = np.random.default_rng(0).integers(0, 9, 10_000).astype(np.uint8).tobytes()
    reproducible_files.write_gzip(tmp_path / "file.gz", content)
    written = (tmp_path / "file.gz").read_bytes()
    assert gzip.decompress(written) == content
    assert written[3:8] == bytes(5)  # flags (no name) and time


@pytest.mark.slow
@pytest.mark.long
def test_remake_gives_the_same_bytes(make, tmp_path):
    """Downloads the packages, unless SAMPLES_PACKAGES names a folder that has them."""
    packages = os.environ.get("SAMPLES_PACKAGES")
    make.make(tmp_path, Path(packages) if packages else None)
    remade = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    assert remade == {Path(p) for p in make.hashes(SAMPLES)} | {Path("SHA256SUMS")}
    for path in sorted(remade):
        assert (tmp_path / path).read_bytes() == (SAMPLES / path).read_bytes(), path
