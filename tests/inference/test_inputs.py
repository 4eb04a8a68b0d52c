"""Which files of a folder are inputs of a run, and why the others are passed over."""

import numpy as np
import pytest
from PIL import Image

from jax_pix2pix.imaging.geometry import given
from jax_pix2pix.inference import inputs, sources
from jax_pix2pix.safety.accounts import PASSED
from tests.imaging.test_dicom import ORIGIN, SERIES, STEP, values_of, write_series, write_slice

GIF = "a GIF, which is read as a mask only"


def folder(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".IMG":
            path.write_bytes(b"x")
        else:
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    return str(root)


def passed(account):
    return {name: account.why(name) for name in account.names(PASSED)}


def test_masks_of_published_layouts_are_no_xrays(tmp_path):
    masks = [
        "scratch/fold1/masks/left lung/JPCLN001.gif",
        "right_lung/JPCLN001.png",
        "ManualMask/leftMask/a.png",
        "Masks/a.png",
    ]
    source = folder(tmp_path / "in", ["All247images/JPCLN001.IMG", "more/a.gif", *masks])
    pairs, account = inputs.xray_pictures(source, str(tmp_path / "out"))
    assert [path for path, _ in pairs] == [f"{source}/All247images/JPCLN001.IMG"]
    assert passed(account) == dict.fromkeys(masks, "a mask") | {"more/a.gif": GIF}


@pytest.mark.parametrize("name", ["mask.gif", "more/view.GIF"])
def test_a_gif_among_pictures_of_mr_is_passed_over(tmp_path, name):
    source, output = folder(tmp_path / "in", ["a.png", name]), str(tmp_path / "out")
    assert inputs.is_picture_input(source, output)
    pairs, account = inputs.mr_pictures(source, output)
    assert [path for path, _ in pairs] == [f"{source}/a.png"]
    assert passed(account) == {name: GIF}


def test_slices_of_another_series_are_not_used(tmp_path, capsys):
    folder = write_series(tmp_path / "export", values_of())
    for index, pixels in enumerate(values_of(1)[:3]):
        write_slice(folder / f"b{index}.dcm", pixels, ORIGIN + index * STEP, series=f"{SERIES}.9")
    sources.read_series(folder, given(series=SERIES))
    assert "4 used, 3 passed over (3 a DICOM file of another volume: b0" in capsys.readouterr().out
