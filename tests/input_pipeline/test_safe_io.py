"""Readers of files of unknown origin."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.safe_io import (
    DataError,
    read_grey_png,
    read_mask,
    read_mask_npy,
)

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = b"IEND"
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + end
        + struct.pack(">I", zlib.crc32(end))
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
    for content in (b"", b"text", whole[:20], whole[: len(whole) // 2], jpeg.getvalue()):
        path.write_bytes(content)
        assert "cannot be read" in refusal(read_grey_png, path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(8193, 8193), (11000, 11000), (100000, 100000)])
def test_refuses_a_decompression_bomb_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    tracemalloc.start()
    message = refusal(read_grey_png, path)
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
        (np.array([[-1, 1]]), "outside"),
        (np.array([[256, 1]]), "outside"),
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
