"""X-rays of every format: values as they are meant to be viewed, and upright."""

import numpy as np
import pytest
from PIL import Image

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.safe_io import UPRIGHT, read_binary_mask
from jax_pix2pix.imaging.xrays import read_xray, reading_notes
from tests.imaging.test_dicom import write_slice

PIXELS = (np.arange(12 * 8).reshape(12, 8) * 2).astype(np.uint8)
DEEP = PIXELS.astype(np.uint16) * 300
TRANSPOSED = {  # by EXIF's definition of where the first row and the first column are
    1: PIXELS, 2: np.fliplr(PIXELS), 3: np.rot90(PIXELS, 2), 4: np.flipud(PIXELS), 5: PIXELS.T,
    6: np.fliplr(PIXELS.T), 7: np.rot90(PIXELS, 2).T, 8: np.flipud(PIXELS.T),
}  # fmt: skip


def dicom(path, **changes):
    changes = {"modality": "DX", "signed": b"\0\0", "window": None} | changes
    window = changes.pop("window")
    write_slice(path, DEEP.astype(np.int16), (0, 0, 0), **changes)
    if window:
        content = path.read_bytes()
        at = content.index(b"\x28\0\x52\x10DS")  # the rescale intercept comes after the window
        path.write_bytes(content[:at] + window + content[at:])
    return path


def window_of(center, width):
    def text(element, kind, value):
        value = value.encode() + b" " * (len(value) % 2)
        return b"\x28\0" + element + kind + len(value).to_bytes(2, "little") + value

    return text(b"\x50\x10", b"DS", f"{center}\\9") + text(b"\x51\x10", b"DS", f"{width}\\9")


@pytest.mark.parametrize("orientation", TRANSPOSED)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_an_orientation_tag_turns_images_and_masks(tmp_path, orientation, ending):
    path = tmp_path / f"a.{ending}"
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=tags, quality=100)
    pixels, notes = read_xray(path, 1)
    np.testing.assert_allclose(pixels, TRANSPOSED[orientation], atol=2 * (ending == "jpg"))
    told = orientation in UPRIGHT
    assert notes == ((f"turned upright by its orientation tag {orientation}",) if told else ())
    assert reading_notes([path]) == ["1 turned upright by their orientation tag"] * told
    Image.fromarray(np.uint8(255) * (PIXELS > 127)).save(path, exif=tags, quality=100)
    np.testing.assert_array_equal(read_binary_mask(path), TRANSPOSED[orientation] > 127)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big.tif", "white.tif"])
def test_16_bits_are_cut_at_percentiles(tmp_path, name):
    path, deep = tmp_path / name, DEEP
    if name == "white.tif":  # white is 0
        Image.fromarray(65535 - deep).save(path, tiffinfo={262: 0})
    elif name == "big.tif":
        Image.fromarray(deep.astype(">u2")).save(path)
    else:
        Image.fromarray(deep).save(path)
    low, high = np.percentile(deep, (0.5, 99.5))
    expected = np.rint(np.clip((deep - low) / (high - low), 0, 1) * 255)
    for channels in (1, 3):
        pixels, (note,) = read_xray(path, channels)
        np.testing.assert_allclose(pixels, expected, atol=1e-4)
    assert "percentiles 0.5 and 99.5" in note and note[:10] in reading_notes([path])[0]


def test_dicom_is_shown_by_its_window_and_white_is_bone(tmp_path):
    path = dicom(tmp_path / "a", window=window_of(25000, 20001))
    pixels, (note,) = read_xray(path, 1)
    expected = np.rint(np.clip((DEEP - 14999.5) / 20000.0, 0, 1) * 255)
    np.testing.assert_allclose(pixels, expected, atol=1)
    assert "by its window, of which 14999.5 to 34999.5 become 0 to 255" in note
    dicom(path, window=window_of(25000, 20001), photometric="MONOCHROME1")
    inverted, notes = read_xray(path, 1)
    np.testing.assert_array_equal(inverted, 255 - pixels)
    assert "MONOCHROME1, inverted so that bone is white" in notes
    low, high = np.percentile(DEEP, (0.5, 99.5))
    for window in (None, window_of("x", "y"), window_of(100, -5)):
        pixels, (note,) = read_xray(dicom(path, window=window), 1)
        np.testing.assert_allclose(pixels, np.clip((DEEP - low) / (high - low), 0, 1) * 255, atol=1)
        assert "without a window: by percentiles" in note
    assert reading_notes([path])[0].startswith("1 DICOM: by their window")


def test_what_is_no_xray_is_refused_by_one_line(tmp_path):
    for name, content in (("ct", None), ("b.dcm", b"text"), ("c.png", b"\xff\xd8\xff text")):
        path = tmp_path / name
        if content is None:
            dicom(path, modality="CT")
        else:
            path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_xray(path, 1)
        said = {"ct": "modality 'CT'", "b.dcm": "a DICOM X-ray", "c.png": "as a JPEG image"}[name]
        assert str(caught.value).startswith(f"{path} ") and said in str(caught.value)


def test_a_picture_scaled_to_one_before_it_was_saved_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray((PIXELS > 90).astype(np.uint8)).save(path)
    for channels in (1, 3):
        with pytest.raises(DataError, match=r"a\.png holds .* it looks scaled to \[0, 1\]"):
            read_xray(path, channels)
    Image.fromarray(PIXELS > 90).save(path)  # of one bit, in which 1 is white
    assert read_xray(path, 1).pixels.max() == 255


def test_the_content_decides_and_not_the_ending(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", format="jpeg", quality=100)
    np.testing.assert_allclose(read_xray(tmp_path / "a.png", 1).pixels, PIXELS, atol=2)
