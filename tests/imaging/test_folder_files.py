"""What a folder holds: candidates by name and content, and why the rest is passed over."""

import os

import numpy as np
import pytest

from jax_pix2pix.imaging.folder_files import alone, kind_of, listed, no_candidate, series_of
from jax_pix2pix.safety.accounts import FAILED, PASSED, USED, Account
from tests.imaging.test_dicom import write_slice

KINDS = {
    "a.NII.gz": "volume", "a.mha": "volume", "a.JPG": "picture", "a.tiff": "picture",
    "a.npy": "array", "JPCLN001.IMG": "JSRT image", "a.dcm": "DICOM file",
}  # fmt: skip
PASSED_OVER = {
    ".DS_Store": "hidden", "._a.nii": "hidden", "Thumbs.db": "made by the system",
    "README": "a text or a table", "SHA256SUMS": "a text or a table", "labels.CSV": "a text or a "
    "table", "a.zip": "an archive, which is not opened", "a.zraw": "voxels that another file names",
    "a.bmp": "an image of a format that is not read", "a.unknown": "no known image",
}  # fmt: skip


def test_names_of_any_case_and_their_reasons(tmp_path):
    for name in KINDS | PASSED_OVER:
        (tmp_path / name).write_bytes(b"x")
    found = {entry.name: entry for entry in listed(tmp_path)}
    assert {name: found[name].kind for name in KINDS} == KINDS
    assert {name: found[name].why for name in PASSED_OVER} == PASSED_OVER
    assert len(found) == len(KINDS) + len(PASSED_OVER)
    assert kind_of(tmp_path / ".a.nii") == ("volume", "")  # that the user names
    assert no_candidate("a.nii.gz") == "" and no_candidate("a.gz").startswith("an archive")


def test_folders_and_links(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "deep" / "a.nii", root / "out" / "b.nii", root / ".git" / "c.nii"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    elsewhere.mkdir()
    (elsewhere / "d.nii").write_bytes(b"x")
    (root / "linked").symlink_to(elsewhere)
    (root / "e.nii").symlink_to(elsewhere / "d.nii")
    (root / "lost.nii").symlink_to(elsewhere / "lost")
    os.mkfifo(root / "pipe.nii")
    assert {entry.name: entry.why for entry in listed(root, root / "out")} == {
        "deep/a.nii": "",
        "e.nii": "",
        ".git": "hidden",
        "out": "the folder of the results",
        "linked": "a linked folder, which is not followed",
        "lost.nii": "a link that leads nowhere",
        "pipe.nii": "no regular file",
    }


def test_dicom_without_an_ending_is_one_series_a_folder(tmp_path):
    (tmp_path / "p1").mkdir()
    for name in ("p1/IM1", "p1/IM2"):
        write_slice(tmp_path / name, np.zeros((2, 3), np.int16), (0, 0, 0))
    assert series_of(listed(tmp_path)) == {"p1": ["p1/IM1", "p1/IM2"]}
    assert kind_of(tmp_path / "p1") == ("", "no known image")


def test_a_series_is_alone_unless_it_lies_below_a_folder_that_is_used():
    folders = [".", "p1", "p1/dicom/2", "p2", "site/p3", "site/p4/dicom"]
    assert alone(folders, ["p1/mr.nii", "site/p4/mr.nii", "volume-1.nii"]) == [".", "p2", "site/p3"]


def test_an_account_counts_every_file_and_names_one_of_each_reason(tmp_path):
    account = Account("scans")
    for name, what, why in (
        ("a.nii", USED, ""), ("b.nii", USED, ""), ("=c.txt", PASSED, "a text"),
        (".d", PASSED, "hidden"), (".e", PASSED, "hidden"), ("f.nii", FAILED, "f.nii is\ncut"),
    ):  # fmt: skip
        account.add(name, what, why)
    assert account.line() == (
        "files of scans: 2 used, 3 passed over (2 hidden: .d and 1 more; 1 a text: =c.txt), "
        "1 failed (f.nii)"
    )
    assert account.line("S1") == "files of S1: 2 used, 3 passed over (2 hidden; 1 a text), 1 failed"
    account.save(tmp_path / "new" / "files.csv", tmp_path)
    lines = (tmp_path / "new" / "files.csv").read_text().splitlines()
    assert lines[0] == "file,what,why" and lines[-1] == "f.nii,failed,f.nii is cut"
    assert "'=c.txt,passed over,a text" in lines


@pytest.mark.parametrize("name", ["a.nii", "a"])
def test_kinds_are_told_without_the_file(name):
    assert kind_of(f"/nowhere/{name}")[0] == ("volume" if "." in name else "")
