"""Small files that would take all memory, end the process or never end are refused in one line."""

import gzip
import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.preparation import tables
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import safe_io, volume_file
from jax_pix2pix.imaging.formats import dicom, dicom_elements
from jax_pix2pix.imaging.volume import Geometry, Volume
from tests.faults.test_hostile_files import READ, metaimage, nrrd, png, tensor, tensors
from tests.imaging.test_dicom import ORIGIN, SERIES, STEP, write_slice
from tests.imaging.test_dicom_elements import ITEM, SEQUENCE, explicit, with_syntax
from tests.input_pipeline.volumes import save

MIB = 2**20


def in_child(read, limit):
    """The message of what `read()` raises, or "read", in a process with `limit` more bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with open("/proc/self/statm", encoding="utf-8") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + limit,) * 2)
        try:
            read()
            text = "read"
        except (DataError, ConfigError) as error:
            cause = error.__cause__
            text = "MemoryError" if isinstance(cause, MemoryError) else str(error)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text[:2000].encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read().decode()
    _, status = os.waitpid(child, 0)
    assert not status, f"the process ended with {status}"
    assert "\n" not in text
    return text


BOMBS = {  # name: (content, what the message says)
    "grows.mha": (metaimage("1000 1000 700", compressed=True, kind="MET_UCHAR"), "9100000000 by"),
    "grows.nrrd": (nrrd("1000 1000 700", kind="uchar"), "9100000000 bytes to read and convert"),
    "side.nrrd": (nrrd("100000000 1 1", kind="uchar"), "limit of 8192 a side"),
    "pixels.png": (png(8192, 8192, zlib.compress(bytes(9))), "hold no 8192 x 8192"),
    "side.png": (png(60_000, 5, b""), "limit of 8192 a side"),
    "scans.jpg": (b"\xff\xd8" + b"\xff\xda\0\2" * 101, "more scans than the limit of 100"),
    "header.safetensors": (tensors(b"[" * 2**22 + b"]"), "header claims 4194305 bytes, above"),
    "columns.csv": (b"a," + b"," * 20_000 + b"\n" + b"1\n" * 10_000, "line 1 above the limit"),
    "line.csv": (b"a\n" + b"1" * 60 * MIB, "line 2 above the limit of 16384 characters"),
    "quote.csv": (b'a\n"' + b"1\n" * 30 * MIB, "cannot be read as a table"),
    "nul.csv": (b"a\n1\0\n", "holds a character in line 2 that is no text"),
    "utf16.csv": ("a\n1\n".encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
    "latin1.csv": ("a\nM\xfcller\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xfc"),
}
READERS = READ | {".csv": lambda path: read_table(path, ("a",), "a")}
READERS |= dict.fromkeys(volume_file.ENDINGS, volume_file.read_mr)


def test_tables_of_too_many_lines(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("b,a\n" + "1, 2 \n\n" * 5)
    found = [(line, {"a": "2", "b": "1"}) for line in range(2, 12, 2)]
    assert read_table(path, ("a",), "a", ("b", "c")) == found
    monkeypatch.setattr(tables, "MAX_ROWS", 4)
    with pytest.raises(DataError, match=r"a\.csv has more lines than the limit of 4: split it"):
        read_table(path, ("a",), "a")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    content, message = BOMBS[name]
    path = tmp_path / name
    path.write_bytes(content)
    text = in_child(lambda: READERS[path.suffix](path), 1024 * MIB)
    assert message in text and str(path) in text, text


def test_a_plane_is_converted_in_parts(tmp_path):
    """As a whole, 34 MB of voxels would become 400 MB of float64."""
    path = save(tmp_path / "a.nii", np.zeros((4096, 4096, 1), np.int16), scl_slope=2, scl_inter=1)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    for name in ("a.nii", "a.nii.gz"):
        assert in_child(lambda name=name: volume_file.read_mr(tmp_path / name), 240 * MIB) == "read"


def test_streams_are_inflated_in_parts(tmp_path):
    """Voxels, values and a piece are held, and no compressed content."""
    noise = os.urandom(MIB) * 32
    path = tmp_path / "a.mha"
    header = metaimage("1024 1024 32", compressed=True, kind="MET_UCHAR")
    path.write_bytes(header + zlib.compress(noise, 0))
    assert in_child(lambda: volume_file.read_labels(path), 90 * MIB) == "read"


def test_volumes_that_become_large(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    voxels = np.zeros((40, 40, 40), np.int16)
    rows = {"srow_x": [50, 0, 0, 0], "srow_y": [0, 50, 0, 0], "srow_z": [0, 0, 50, 0]}
    save(source / "a.nii", voxels, **rows, qform_code=0, pixdim=[1, 50, 50, 50, 0, 0, 0, 0])
    config = luna16.Config(isotropic_mm=1.0)
    with pytest.raises(DataError, match=r"a\.nii has 2000 x 2000 x 2000 pixels, which take"):
        luna16.find(source, config)


def series(folder, change):
    """A series of which one file is changed. -> the folder."""
    for number in range(3):
        write_slice(folder / f"{number}.dcm", np.ones((5, 6), np.int16), ORIGIN + number * STEP)
    meta, body = explicit(folder / "1.dcm")
    (folder / "1.dcm").write_bytes(change(meta, body))
    return folder


def with_rows(body, rows):
    element = b"\x28\0\x10\0US\2\0"
    return body.replace(element + b"\x28\0", element + struct.pack("<H", rows))


SLICES = {
    "nested": (lambda meta, body: meta + (SEQUENCE + ITEM) * 20_000 + body, "nested more than 64"),
    "rows": (lambda meta, body: meta + with_rows(body, 65_535), "limit of 8192 a side"),
    "too few": (lambda meta, body: meta + with_rows(body, 8_192), "bytes of pixels"),
    "no syntax": (
        lambda meta, body: with_syntax(meta, "1.2.840.10008.1.2.4.100") + body,
        "save it",
    ),
    "empty": (lambda meta, body: b"", "empty"),
    "no DICOM": (lambda meta, body: body[4:], "does not begin as DICOM does"),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_of_dicom(tmp_path, name):
    change, message = SLICES[name]
    folder = series(tmp_path, change)
    text = in_child(lambda: dicom.read_series(folder), 1024 * MIB)
    assert message in text and str(tmp_path / "1.dcm") in text, text


def test_many_series_are_named_in_part(tmp_path):
    for number in range(50):
        path = tmp_path / f"{number}.dcm"
        write_slice(path, np.ones((5, 6), np.int16), ORIGIN, series=f"{SERIES}.{number}")
    told = r"holds 50 DICOM volumes: .* and 38 more: choose"
    with pytest.raises(DataError, match=told) as caught:
        dicom.read_series(tmp_path)
    assert len(str(caught.value)) < 1000


# Pipes, links and devices in place of files.


@pytest.mark.parametrize("ending", [*READ, ".dcm"])
def test_pipes_are_refused(tmp_path, ending):
    """Opening one without a writer would wait for ever."""
    path = tmp_path / f"a{ending}"
    os.mkfifo(path)
    read = dicom_elements.is_dicom if ending == ".dcm" else READ[ending]
    with pytest.raises((DataError, ConfigError, OSError), match="is no regular file") as caught:
        read(path)
    assert str(path) in str(caught.value)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises((DataError, ConfigError, OSError), match="is no regular file"):
        read(path)


def test_pipes_beside_slices(tmp_path):
    series(tmp_path, lambda meta, body: b"")
    (tmp_path / "1.dcm").unlink()
    os.mkfifo(tmp_path / "1.dcm")
    write_slice(tmp_path / "a.dcm", np.full((5, 6), -900, np.int16), ORIGIN + STEP)
    assert len(dicom.read_series(tmp_path).values) == 3
    # A link in a folder may lead to a file of yours.
    (tmp_path / "a.dcm").rename(tmp_path.with_suffix(".elsewhere"))
    (tmp_path / "a.dcm").symlink_to(tmp_path.with_suffix(".elsewhere"))
    with pytest.raises(DataError, match=r"a\.dcm cannot be read .*is a link"):
        dicom.read_series(tmp_path)


def test_voxels_of_an_mhd(tmp_path):
    path, raw = tmp_path / "folder" / "a.mhd", tmp_path / "folder" / "a.raw"
    path.parent.mkdir()
    path.write_bytes(metaimage(file="a.raw"))
    os.mkfifo(raw)
    with pytest.raises(DataError, match="is no regular file"):
        volume_file.read_ct(path)
    raw.unlink()
    secret = tmp_path / "secret.raw"
    secret.write_bytes(np.arange(-60, 60, dtype=np.int16).tobytes())
    raw.symlink_to(secret)
    for read in (volume_file.read_ct, volume_file.read_geometry):
        with pytest.raises(DataError, match=r"a\.raw is a link out of the folder of .*a\.mhd"):
            read(path)
    # The user may give a link to a header whose voxels lie beside it.
    raw.unlink()
    secret.rename(raw)
    link, other = tmp_path / "link.mhd", tmp_path / "a.raw"
    link.symlink_to(path)
    other.symlink_to(raw)
    volume_file.read_ct(link)


@pytest.mark.parametrize("ending", volume_file.ENDINGS)
def test_results_take_the_place_of_links(tmp_path, ending):
    """A link is replaced, and what it leads to is left as it was."""
    values = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    volume = Volume(values, Geometry(np.diag([-1.0, -1, 1, 1]), (6, 5, 4)))
    path, raw, mine = tmp_path / f"out{ending}", tmp_path / "out.raw", tmp_path / "mine"
    mine.write_text("mine")
    path.symlink_to(mine)
    raw.symlink_to(mine)
    volume_file.write_hu(path, values, volume)
    assert mine.read_text() == "mine"
    assert not path.is_symlink() and raw.is_symlink() == (ending != ".mhd")
    np.testing.assert_array_equal(volume_file.read_ct(path).values, values)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    if ending == ".mhd":  # voxels are complete before a header names them
        assert raw.stat().st_ctime_ns <= path.stat().st_ctime_ns
    if ending == ".nii.gz":  # has neither a name nor a time
        assert path.read_bytes()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\4\xff"


def test_safetensors_of_other_kinds(tmp_path):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": tensor([4], 0, 16)}).encode()
    path.write_bytes(struct.pack("<Q", 2**63) + header + bytes(16))
    with pytest.raises(ConfigError, match=r"cannot be read as safetensors .*above the limit"):
        READ[".safetensors"](path)


def test_large_pictures_of_few_bytes_are_read(tmp_path):
    """Zeros are compressed 1032-fold at most, so that a real picture is never refused."""
    size = 2048, 2048
    for ending, mode, read in (
        (".png", "L", safe_io.read_grey_png),
        (".png", "1", safe_io.read_binary_mask),
        (".gif", "L", safe_io.read_binary_mask),
        (".jpg", "L", safe_io.read_picture),
        (".tif", "L", safe_io.read_picture),
    ):
        path = tmp_path / f"a{ending}"
        options = {".jpg": {"optimize": True, "progressive": True}}.get(ending, {})
        options |= {"compression": "tiff_adobe_deflate"} if ending == ".tif" else {}
        Image.new(mode, size).save(path, **options)
        assert read(path).shape == size
