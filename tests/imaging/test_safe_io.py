"""Readers of files of unknown origin."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.safe_io import (
    read_binary_mask,
    read_deep_picture,
    read_grey_png,
    read_img,
    read_mask,
    read_mask_npy,
    read_picture,
)

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def read_colour(path):
    return read_deep_picture(path, 3).pixels


READERS = (read_grey_png, read_colour, read_binary_mask)  # of PNG


def png(width, height, depth=8, colour=0, content=None):
    """A PNG by its specification; without content, only its header."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    if content is not None:
        chunks.append((b"IDAT", zlib.compress(content)))
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def npy_header(text):
    text = text.encode().ljust(118)[:117] + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def refusal(reader, path):
    """The error's message, having checked that it is one line that names the file."""
    with pytest.raises(DataError) as caught:
        reader(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_reads_grey_and_grey_in_rgb(tmp_path):
    for name, image in (("l", RAMP), ("rgb", np.stack([RAMP] * 3, -1))):
        path = tmp_path / f"{name}.png"
        Image.fromarray(image).save(path)
        read = read_grey_png(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, RAMP)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("colour", np.stack([RAMP, RAMP, RAMP + 1], -1)),
        ("alpha", np.stack([RAMP] * 4, -1)),
        ("16-bit", RAMP.astype(np.uint16)),
    ],
)
def test_refuses_what_is_not_8_bit_grey(tmp_path, name, image):
    path = tmp_path / f"{name}.png"
    Image.fromarray(image).save(path)
    assert "not 8-bit grey" in refusal(read_grey_png, path)
    assert "not 8-bit grey" in refusal(read_binary_mask, path)
    if name == "alpha":
        assert "not 8-bit grey or RGB" in refusal(read_colour, path)


@pytest.mark.parametrize("colour", [0, 2])
def test_refuses_16_bits_a_channel(tmp_path, colour):
    """Pillow reads the upper half of those in colour."""
    path = tmp_path / "a.png"
    row = b"\0" + np.arange(4 * (1 + colour), dtype=">u2").tobytes()
    path.write_bytes(png(4, 4, 16, colour, row * 4))
    for reader in READERS[:: 1 if colour else 2]:  # the second takes grey ones
        assert "16-bit" in refusal(reader, path)


def test_reads_pictures_as_grey_and_as_colours(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_deep_picture(path, 3).pixels, pixels)
    luma = pixels @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(read_deep_picture(path, 1).pixels, luma, atol=0.51)
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    palette = Image.fromarray(255 - grey)
    palette.putpalette(np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3).tobytes())
    for image in (Image.fromarray(grey), Image.fromarray(np.stack([grey] * 3, -1)), palette):
        image.save(path)
        np.testing.assert_array_equal(read_deep_picture(path, 1).pixels, grey)
        np.testing.assert_array_equal(read_deep_picture(path, 3).pixels, np.stack([grey] * 3, -1))
    Image.fromarray(grey > 9).save(path)
    np.testing.assert_array_equal(read_deep_picture(path, 1).pixels, 255 * (grey > 9))


@pytest.mark.parametrize("ending", ["png", "gif", "GIF"])
def test_reads_binary_masks(tmp_path, ending):
    mask = np.random.default_rng(0).integers(0, 2, (6, 8), np.uint8)
    path = tmp_path / f"mask.{ending}"
    for image in (mask * np.uint8(255), mask, mask > 0, np.zeros((6, 8), np.uint8)):
        Image.fromarray(image).save(path)
        read = read_binary_mask(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, mask if image.any() else 0)
    Image.fromarray(127 + mask).save(path)
    assert "holds the values 127, 128" in refusal(read_binary_mask, path)


def test_refuses_a_gif_of_several_frames(tmp_path):
    path = tmp_path / "mask.gif"
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP.T.copy().reshape(6, 8))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "several frames" in refusal(read_binary_mask, path)


def test_refuses_broken_gifs(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
        whole, "gif"
    )
    whole = whole.getvalue()
    path = tmp_path / "mask.gif"
    refusal(read_binary_mask, path)  # missing
    for content in (b"", b"text", whole[:12], whole[: len(whole) // 2], png(4, 4)):
        path.write_bytes(content)
        kind = "GIF" if content[:3] == b"GIF" else "PNG"
        assert f"cannot be read as a {kind}" in refusal(read_binary_mask, path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refuses_a_gif_too_large_by_its_header(tmp_path):
    path = tmp_path / "mask.gif"
    # The screen is large, or the frame reaches beyond it.
    for screen, frame in (
        ((10000, 10000), struct.pack("<HHHHB", 0, 0, 4, 4, 0)),
        ((4, 4), struct.pack("<HHHHB", 0, 0, 10000, 10000, 0)),
    ):
        header = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
        path.write_bytes(header + b"\x2c" + frame + b"\x08\x01\x00\x00\x3b")
        tracemalloc.start()
        message = refusal(read_binary_mask, path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()
        assert "10000 x 10000" in message and "limit" in message


def test_reads_jsrt_images(tmp_path):
    path = tmp_path / "JPCLN001.IMG"
    pixels = np.arange(2048 * 2048, dtype=np.uint32).reshape(2048, 2048) % 4096
    path.write_bytes(pixels.astype(">u2").tobytes())
    read = read_img(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)
    path.write_bytes(pixels.astype("<u2").tobytes())
    assert "above the 4095" in refusal(read_img, path)
    os.truncate(path, 100)
    assert "100 bytes, not the 8388608" in refusal(read_img, path)
    os.truncate(path, 10**12)
    assert "1000000000000 bytes" in refusal(read_img, path)
    path.unlink()
    assert "cannot be read as a JSRT image" in refusal(read_img, path)


def test_reads_pictures_of_either_format_as_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for name in ("a.png", "a.PNG", "a.jpg", "a.JPEG"):
        Image.fromarray(pixels).save(tmp_path / name)
        luma = np.asarray(Image.open(tmp_path / name)) @ [0.299, 0.587, 0.114]
        found = read_picture(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == (16, 16)
        np.testing.assert_allclose(found, luma, atol=2)  # a JPEG's luma is in the file
    whole = (tmp_path / "a.jpg").read_bytes()
    for content, kind in ((b"", "PNG, JPEG or TIFF"), (b"text", "PNG"), (whole[:200], "JPEG")):
        (tmp_path / "b.jpg").write_bytes(content)
        assert f"cannot be read as a {kind}" in refusal(read_picture, tmp_path / "b.jpg")
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "b.jpg")
    assert "8-bit grey or RGB" in refusal(read_picture, tmp_path / "b.jpg")


def test_refuses_broken_pngs(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
        whole, "png"
    )
    whole = whole.getvalue()
    jpeg = io.BytesIO()
    Image.fromarray(RAMP).save(jpeg, "jpeg")
    path = tmp_path / "a.png"
    refusal(read_grey_png, path)  # missing
    for content in (b"", b"text", whole[:20], whole[: len(whole) // 2]):
        path.write_bytes(content)
        for reader in READERS:
            assert "cannot be read" in refusal(reader, path)
    path.write_bytes(jpeg.getvalue())
    assert "a.png is a JPEG by its content" in refusal(read_grey_png, path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8193, 8193), (11000, 11000), (100000, 100000)])
def test_refuses_a_decompression_bomb_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    for reader in READERS:
        tracemalloc.start()
        message = refusal(reader, path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()
        assert "limit" in message


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">i2", "float32", "float64"])
def test_reads_masks_of_any_integral_dtype(tmp_path, dtype):
    mask = (RAMP % 2).astype(dtype)
    path = tmp_path / "mask.npy"
    for array in (mask, mask[None], mask[..., None], np.asfortranarray(mask)):
        np.save(path, array)
        read = read_mask_npy(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, RAMP % 2)


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.array([[0.5, 1]]), "integers"),
        (np.array([[np.nan, 1]]), "integers"),
        (np.array([[np.inf, 1]]), "integers"),
        (np.array([[-1, 1]]), "integers"),
        (np.array([[256, 1]]), "integers"),
        (np.array([[1j, 1]]), "complex"),
        (np.array([["a"]]), "U1"),
        (np.zeros((2, 2), [("a", "u1")]), "uint8"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((2, 2, 2), np.uint8), "shape"),
        (np.zeros((0, 4), np.uint8), "cannot be read"),
    ],
)
def test_refuses_arrays_that_are_no_masks(tmp_path, array, word):
    path = tmp_path / "mask.npy"
    np.save(path, array)
    assert word in refusal(read_mask_npy, path)


class Touch:
    """Pickles into a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_refuses_pickles_without_running_them(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.array([[Touch(tmp_path / "ran")]], object), allow_pickle=True)
    refusal(read_mask_npy, path)
    path.write_bytes(np.array([[Touch(tmp_path / "ran")]], object).dumps())
    refusal(read_mask_npy, path)
    assert not (tmp_path / "ran").exists()


def test_refuses_broken_npy(tmp_path):
    whole = io.BytesIO()
    np.save(whole, RAMP)
    whole = whole.getvalue()
    archive = io.BytesIO()
    np.savez(archive, RAMP)
    path = tmp_path / "mask.npy"
    refusal(read_mask_npy, path)  # missing
    for content in (b"", b"text", whole[:5], whole[:40], whole[:-1], archive.getvalue()):
        path.write_bytes(content)
        refusal(read_mask_npy, path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4000000, 4000000)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 10000000000000)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, -4)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, ",
    ],
)
def test_refuses_false_headers_without_allocating(tmp_path, header):
    path = tmp_path / "mask.npy"
    path.write_bytes(npy_header(header) + bytes(16))
    tracemalloc.start()
    refusal(read_mask_npy, path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_refuses_a_huge_sparse_mask(tmp_path):
    path = tmp_path / "mask.npy"
    header = npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (70000, 70000)}")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 70000 * 70000)
    assert "limit" in refusal(read_mask_npy, path)


def test_masks_are_read_by_suffix(tmp_path):
    np.save(tmp_path / "mask.npy", RAMP)
    Image.fromarray(RAMP).save(tmp_path / "mask.png")
    for name in ("mask.npy", "mask.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), RAMP)
