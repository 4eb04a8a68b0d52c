"""Copies of DICOM slices: GDCM reads from them what it reads from the files."""

import itertools
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats import dicom_elements, dicom_frames
from jax_pix2pix.imaging.formats.dicom import read_series
from jax_pix2pix.imaging.formats.dicom_elements import is_dicom, plain_slice
from tests.imaging.test_dicom import EXPLICIT_LITTLE_ENDIAN, ORIGIN, element, write_slice

PUBLISHED = sorted(Path(nibabel.__file__).parent.rglob("*.dcm"))  # of scanners
PIXELS = np.random.default_rng(0).integers(0, 1000, (40, 30)).astype(np.int16)
PIXEL_DATA = struct.pack("<HH", 0x7FE0, 0x0010)
ITEM, SEQUENCE = b"\xfe\xff\x00\xe0" + b"\xff" * 4, b"\x08\0\x40\x11SQ\0\0" + b"\xff" * 4


def read(path):
    image = sitk.ReadImage(str(path), sitk.sitkFloat64, imageIO="GDCMImageIO")
    return image, sitk.GetArrayFromImage(image)


def check_same(path, folder):
    copy = folder / "copy.dcm"
    copy.write_bytes(plain_slice(path))
    (found, values), (image, expected) = read(copy), read(path)
    np.testing.assert_array_equal(values, expected)
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(found, what)() == getattr(image, what)()
    for key in ("0008|0060", "0020|000e", "0028|1052", "0028|1053"):
        if key in image.GetMetaDataKeys():
            assert found.GetMetaData(key).strip() == image.GetMetaData(key).strip()


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_files(tmp_path, path):
    if path.name == "csa_slice_norm.dcm":
        with pytest.raises(ValueError, match="no image"):
            plain_slice(path)
    else:
        check_same(path, tmp_path)


def write_gdcm(path, compressor):
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(bool(compressor))
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    image = sitk.GetImageFromArray(PIXELS[None].astype(np.uint16))
    image.SetSpacing((0.7, 1.1, 2.5))
    writer.Execute(image)
    return path


@pytest.mark.parametrize("compressor", ["", "JPEG", "JPEG2000"])
def test_files_of_gdcm_until_they_are_cut(tmp_path, compressor):
    path = write_gdcm(tmp_path / "a.dcm", compressor)
    check_same(path, tmp_path)
    content = path.read_bytes()
    assert (b"\xfe\xff\x00\xe0" in content) == bool(compressor)  # fragments
    path.write_bytes(content + bytes(64))  # padding behind the last element
    check_same(path, tmp_path)
    for size in (len(content) - 200, len(content) // 2, 300):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"claims|ends within|no image|do not end"):
            plain_slice(path)


def explicit(path, **changes):
    """(what comes before the elements, the elements) of a slice in explicit little endian."""
    write_slice(path, PIXELS, ORIGIN, **changes)
    content = path.read_bytes()
    place = content.index(b"\x08\0\x16\0UI")
    return content[:place], content[place:]


def with_syntax(meta, syntax):
    old = element(0x00020010, "UI", EXPLICIT_LITTLE_ENDIAN)
    return meta.replace(old, element(0x00020010, "UI", syntax))


def each_element(body):
    """(tag, kind, value) of elements without sequences."""
    while body:
        long = body[4:6] in dicom_elements.LONG
        length = struct.unpack("<I" if long else "<H", body[8:12] if long else body[6:8])[0]
        start = 12 if long else 8
        yield struct.unpack("<HH", body[:4]), body[4:6], body[start : start + length]
        body = body[start + length :]


def in_implicit(body):
    return b"".join(
        struct.pack("<HHI", *tag, len(value)) + value for tag, _, value in each_element(body)
    )


def in_big_endian(body):
    content = b""
    for tag, kind, value in each_element(body):
        if kind in (b"US", b"OW"):
            value = np.frombuffer(value, "<u2").astype(">u2").tobytes()
        content += struct.pack(">HH", *tag) + kind
        content += struct.pack(">2xI" if kind == b"OW" else ">H", len(value)) + value
    return content


def deflate(content):
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(content) + squeeze.flush()


@pytest.mark.parametrize(
    ("syntax", "code"),
    [
        (dicom_elements.IMPLICIT, in_implicit),
        (dicom_elements.BIG_ENDIAN, in_big_endian),
        (dicom_elements.DEFLATED, deflate),
    ],
    ids=["implicit", "big endian", "deflated"],
)
def test_other_syntaxes(tmp_path, syntax, code):
    path = tmp_path / "a.dcm"
    meta, body = explicit(path, slope=2, inter=-7)
    path.write_bytes(with_syntax(meta, syntax) + code(body))
    check_same(path, tmp_path)
    np.testing.assert_array_equal(read(path)[1][0], 2.0 * PIXELS - 7)


def raw(path, how):
    """Takes the preamble off a file, and with `how` group 2 too: older programs write them so."""
    meta, body = explicit(path)
    path.write_bytes(
        {"group 2": meta[132:] + body, "explicit": body, "implicit": in_implicit(body)}[how]
    )
    return path


@pytest.mark.parametrize("how", ["group 2", "explicit", "implicit"])
def test_files_without_a_preamble(tmp_path, how):
    path = raw(tmp_path / "IM1", how)
    assert is_dicom(path)
    (tmp_path / "copy.dcm").write_bytes(plain_slice(path))
    np.testing.assert_array_equal(read(tmp_path / "copy.dcm")[1][0], PIXELS)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08\0\x16\0", b"\x08\0\x16\0text and so on", b"\x08\0\x77\0UI\2\0", b"\2" * 200],
)
def test_other_files_are_no_dicom(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert not is_dicom(tmp_path / "a")


def test_no_slice_of_a_series_is_lost_for_want_of_a_preamble(tmp_path):
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    for k, pixels in enumerate(values):
        write_slice(tmp_path / f"IM{k}", pixels, (0, 0, k))
    content = (tmp_path / "IM3").read_bytes()
    (tmp_path / "IM3").write_bytes(content[132:])
    np.testing.assert_array_equal(read_series(tmp_path).values, values)


def test_sequences_and_private_elements_are_passed_over(tmp_path):
    path = tmp_path / "a.dcm"
    meta, body = explicit(path)
    rows = element(0x00280010, "US", struct.pack("<H", 7))  # of an icon, not of the slice
    ends = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    whole = b"\x08\0\x40\x11SQ\0\0" + struct.pack("<I", 8 + len(rows))
    whole += b"\xfe\xff\x00\xe0" + struct.pack("<I", len(rows)) + rows
    old_rows = struct.pack("<HHI", 0x0028, 0x0010, 2) + b"\7\0"
    others = [
        SEQUENCE + ITEM + rows + ends[0] + ends[1],
        whole,
        b"\x09\0\x01\x10UN\0\0" + b"\xff" * 4 + ITEM + old_rows + ends[0] + ends[1],
        b"\x09\0\x02\x10" + struct.pack("<I", 3) + b"\1\2\3",  # has no kind
    ]
    expected = plain_slice(path)
    for count in (1, 2, 3, 4):
        for chosen in itertools.combinations(others, count):
            path.write_bytes(meta + b"".join(chosen) + body)
            assert plain_slice(path) == expected


@pytest.mark.parametrize("depth", [100, 20_000])
@pytest.mark.parametrize("kind", [b"SQ", b"UN"])
def test_nested_sequences_are_refused(tmp_path, kind, depth):
    """GDCM follows them until its stack ends, and the process with it."""
    path = tmp_path / "a.dcm"
    meta, body = explicit(path)
    sequences = (SEQUENCE + ITEM) * depth
    if kind == b"UN":
        inner = SEQUENCE[:4] + SEQUENCE[-4:] + ITEM
        sequences = SEQUENCE.replace(b"SQ", b"UN") + ITEM + inner * depth
    path.write_bytes(meta + sequences + body)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        plain_slice(path)


def test_what_inflates_too_far_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.dcm"
    meta, body = explicit(path)
    path.write_bytes(with_syntax(meta, dicom_elements.DEFLATED) + deflate(body + bytes(2**20)))
    plain_slice(path)
    monkeypatch.setattr(dicom_elements, "MAX_INFLATED", 2**20)
    with pytest.raises(ValueError, match="inflates to more than 1048576 bytes"):
        plain_slice(path)


FRAME_SIZES = {  # where the rows of a frame's own header are
    "JPEG": (b"\xff\xc3", 5, ">H"),
    "JPEG2000": (b"\xff\x4f\xff\x51", 12, ">I"),
}


@pytest.mark.parametrize("compressor", FRAME_SIZES)
@pytest.mark.parametrize("claimed", [39, 41, 60_000])
def test_frames_that_claim_another_size(tmp_path, compressor, claimed):
    path = write_gdcm(tmp_path / "a.dcm", compressor)
    content = bytearray(path.read_bytes())
    marker, offset, kind = FRAME_SIZES[compressor]
    place = content.index(marker) + offset
    assert struct.unpack_from(kind, content, place) == (40,)
    struct.pack_into(kind, content, place, claimed)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"compressed pixels are 30 x {claimed} of|in 1500 tiles"):
        plain_slice(path)
    # Elements that agree with the frame are above the limit, or the frame is too small.
    content = content.replace(b"\x28\0\x10\0US\2\0\x28\0", b"\x28\0\x10\0US\2\0\x60\xea")
    struct.pack_into(kind, content, place, 60_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match="60000 x 30 pixels, above the limit of 8192 a side"):
        plain_slice(path)


def test_tiles_of_jpeg_2000(tmp_path):
    path = write_gdcm(tmp_path / "a.dcm", "JPEG2000")
    content = bytearray(path.read_bytes())
    struct.pack_into(">2I", content, content.index(b"\xff\x4f\xff\x51") + 24, 1, 1)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="in 1200 tiles"):
        plain_slice(path)


def encapsulated(path, syntax, frame, **changes):
    meta, body = explicit(path, **changes)
    body = body[: body.index(PIXEL_DATA)]
    item, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0" + bytes(4)
    pixels = PIXEL_DATA + b"OB\0\0" + b"\xff" * 4 + item + bytes(4)
    # In two fragments.
    for piece in (frame[:100], frame[100:]):
        pixels += item + struct.pack("<I", len(piece)) + piece
    path.write_bytes(with_syntax(meta, syntax) + body + pixels + end)


def runs(values):
    """A frame of RLE, of literal runs: the high bytes, then the low ones."""
    segments = []
    for plane in (values >> 8, values & 255):
        content = plane.astype(np.uint8).tobytes()
        pieces = [content[k : k + 100] for k in range(0, len(content), 100)]
        segments.append(b"".join(bytes([len(piece) - 1]) + piece for piece in pieces))
    header = struct.pack("<3I52x", 2, 64, 64 + len(segments[0]))
    return header + b"".join(segments)


def test_runs(tmp_path):
    path, (syntax,) = tmp_path / "a.dcm", dicom_frames.RLE
    encapsulated(path, syntax, runs(PIXELS))
    check_same(path, tmp_path)
    np.testing.assert_array_equal(read(path)[1][0], PIXELS)
    for rows, message in ((8192, "no 30 x 8192"), (9000, "9000 x 30 pixels, above the limit")):
        encapsulated(path, syntax, runs(PIXELS), rows=struct.pack("<H", rows))
        with pytest.raises(ValueError, match=message):
            plain_slice(path)
    for place, number in ((0, 15), (4, 0), (8, 2**31)):
        frame = bytearray(runs(PIXELS))
        struct.pack_into("<I", frame, place, number)
        encapsulated(path, syntax, frame)
        with pytest.raises(ValueError, match="compressed pixels are"):
            plain_slice(path)


def test_headers_of_jpeg_ls():
    """No writer of it is at hand; its header is as JPEG's."""
    size = struct.pack(">HHB", 40, 30, 1)
    frame = b"\xff\xd8\xff\xf7\0\x0b\x10" + size + b"\1\x11\0\xff\xda\0\x08"
    (syntax, _) = sorted(dicom_frames.JPEG_LS)
    dicom_frames.check_frame(syntax, frame, 40, 30, 16)
    with pytest.raises(ValueError, match="are 30 x 40 of 1 x 16 bits, not 30 x 41 of 16"):
        dicom_frames.check_frame(syntax, frame, 41, 30, 16)
    second = frame[2:15]
    for bad in (frame[:12], b"", frame[:2] + second + frame[2:], frame.replace(b"\xf7", b"\xc2")):
        with pytest.raises(ValueError, match="compressed pixels"):
            dicom_frames.check_frame(syntax, bad, 40, 30, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": struct.pack("<H", 65535)}, "above the limit"),
        ({"rows": struct.pack("<H", 41)}, "has 2400 of 2460 bytes of pixels"),
        ({"samples": struct.pack("<H", 3)}, "does not hold one number a pixel"),
        ({"allocated": struct.pack("<H", 12)}, "does not hold one number a pixel"),
        ({"frames": "2000000000"}, "many frames"),
        ({"frames": "x"}, "invalid literal"),
        ({"columns": None}, "no image"),
        ({"series": "1" * 5000}, "claims 5000"),
    ],
)
def test_sizes_that_are_none(tmp_path, changes, message):
    write_slice(tmp_path / "a.dcm", PIXELS, ORIGIN, **changes)
    with pytest.raises(ValueError, match=message):
        plain_slice(tmp_path / "a.dcm")
