"""Files made to do harm are refused in one line, before memory is taken for their claims."""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import safetensors.numpy

from input_pipeline.datasets.lidc_masks import lidc_masks_dataset_builder as lidc_masks
from input_pipeline.datasets.luna16.layouts import find_series
from input_pipeline.datasets.mri_ct.layouts import find_pairs
from input_pipeline.datasets.xray_lungs.layouts import find_xrays
from input_pipeline.preparation.source_folder import SourceFolder
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import safe_io, volume_file
from jax_pix2pix.imaging.formats.dicom import read_series
from jax_pix2pix.losses import perceptual, segmenter
from tests import commands
from tests.imaging.test_dicom import ORIGIN, STEP
from tests.imaging.test_dicom import write_slice as write_dicom
from tests.input_pipeline.conftest import write_slice
from tests.input_pipeline.volumes import save

MIB = 2**20
LIMIT = 160 * MIB  # memory that a child may take after it begins to read
CLAIMED = 2**29  # bytes that a bomb holds or claims
SHAPE = (4, 5, 6)


def deflated(bits):
    """CLAIMED zeros, as zlib (15) or gzip (31) compresses them."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, bits)
    zeros = bytes(MIB)
    return b"".join([squeeze.compress(zeros) for _ in range(CLAIMED // MIB)] + [squeeze.flush()])


def png(width, height, content, *others):
    """An 8-bit grey PNG; `others` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *others, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def npy(descr, shape, version=b"\x01\x00"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + bytes(64)


def metaimage(shape="6 5 4", file="LOCAL", compressed=False, kind="MET_SHORT", **fields):
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "CompressedData": str(compressed),
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": shape,
        "ElementType": kind,
        **fields,
        "ElementDataFile": file,
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode()


def nrrd(sizes="6 5 4", encoding="gzip", kind="short", **fields):
    fields = {
        "type": kind,
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": sizes,
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "endian": "little",
        "encoding": encoding,
        "space origin": "(0,0,0)",
        **{key.replace("_", " "): value for key, value in fields.items()},
    }
    return b"NRRD0004\n" + b"".join(f"{k}: {v}\n".encode() for k, v in fields.items()) + b"\n"


def nifti(folder, **fields):
    """A file of 4 x 5 x 6 voxels of int16, whose header fields can say something else."""
    path = save(folder / "zeros.nii", np.zeros(SHAPE, np.int16), **fields)
    content = path.read_bytes()
    path.unlink()
    return content


def tensors(header, content=bytes(16), length=None):
    """A safetensors file; `length` of its header may be false."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def tensor(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def tiff(width, height, *more):
    """A TIFF of 8-bit grey, of a header alone."""
    tags = [(0x0100, width), (0x0101, height), (0x0102, 8), (0x0103, 5), (0x0106, 1), *more]
    place = 0x0144 if more else 0x0111
    tags += [(place, 200), (place + 1 if more else 0x0117, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    return (head + entries).ljust(209, b"\0")


def bombs(folder):
    """Writes the bombs. -> {name of a file: what the message must say}."""
    zipped, zlibbed = deflated(31), deflated(15)
    jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01"
    gif = (
        b"GIF89a"
        + b"\xff" * 4
        + b"\x80\0\0"
        + bytes(6)
        + b","
        + bytes(4)
        + b"\xff" * 4
        + b"\0\x08\0;"
    )
    cube = nifti(folder, dim=[3, 700, 700, 700, 1, 1, 1, 1])
    made = {
        "pixels.png": (png(60000, 60000, b""), "limit"),
        "cut.png": (png(4, 4, zlib.compress(bytes(20)))[:44], "cannot be read"),
        "profile.png": (png(4, 4, b"", (b"iCCP", b"x\0\0" + zlibbed)), "cannot be read"),
        "text.png": (png(4, 4, b"", (b"zTXt", b"x\0\0" + zlibbed)), "cannot be read"),
        "huge.jpg": (jpeg + b"\0\0\x3f\0\xff\xd9", "cannot be read|limit"),
        "huge.gif": (gif, "limit"),
        "huge.tif": (tiff(60000, 60000), "limit"),
        "tile.tif": (tiff(4, 4, (0x0142, 60000), (0x0143, 60000)), "limit"),
        "terabytes.npy": (npy("|u1", (2**21, 2**21)), "limit"),
        "negative.npy": (npy("<f8", (-(2**31), -(2**31))), "limit|cannot be read"),
        "twice negative.npy": (npy("|u1", (-4, -4)), r"cannot be read .*\(-4, -4\)"),
        "bool.npy": (npy("<f4", (True, 4)), r"cannot be read .*\(True, 4\)"),
        "overflow.npy": (npy("<f8", (2**31, 2**33)), "limit"),
        "header.npy": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "cannot be read"),
        "shape.nii": (nifti(folder, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "limit"),
        "within the cap.nii": (cube, "no 686000000 bytes"),
        "negative.nii": (nifti(folder, dim=[3, -4, -5, 6, 1, 1, 1, 1]), "three dimensions"),
        "offset.nii": (nifti(folder, vox_offset=2.0**40), "begin at byte"),
        "claims.nii.gz": (gzip.compress(cube), "no 686000000 bytes"),
        "cut.nii.gz": (zipped[: len(zipped) // 2], "cannot be read"),
        "shape.mha": (metaimage("99999 99999 99999"), "limit"),
        "negative.mha": (metaimage("-6 -5 4"), "three dimensions"),
        "overflow.mha": (metaimage(f"{2**32} {2**31} 1"), "limit"),
        "within the cap.mha": (metaimage("700 700 700"), "no 686000000 bytes"),
        "more.mha": (metaimage(compressed=True) + zlibbed, "does not end"),
        "more.mhd": (metaimage(file="more.zraw", compressed=True), "does not end"),
        "line.mha": (b"Comment = " + b"x" * (64 * MIB), "header does not end"),
        "lines.mha": (b"a = b\n" * (8 * MIB), "header does not end"),
        "more.nrrd": (nrrd() + zipped, "does not end"),
        "shape.nrrd": (nrrd("99999 99999 99999"), "limit"),
        "negative.nrrd": (nrrd("-6 5 -4"), "three dimensions"),
        "within the cap.nrrd": (nrrd("700 700 700", "raw"), "no 686000000 bytes"),
        "lines.nrrd": (b"NRRD0004\n" + b"a: b\n" * (8 * MIB), "header does not end"),
        "header.safetensors": (tensors({}, length=2**60), "limit"),
        "offsets.safetensors": (tensors({"a": tensor([2**40], 0, 2**42)}), "cannot be read as"),
    }  # fmt: skip
    (folder / "more.zraw").write_bytes(zlibbed)
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    # These are as large as they claim, on a disk that stores no zeros.
    for name, header in (("sparse.mha", metaimage("99999 99999 99")), ("sparse.csv", b"a,b\n")):
        with open(folder / name, "wb") as file:
            file.write(header)
            file.truncate(2**41)
    with open(folder / "sparse.safetensors", "wb") as file:
        file.write(tensors({"a": tensor([2**38], 0, 2**40)}))
        file.truncate(2**40 + 200)
    expected = {name: text for name, (_, text) in made.items()}
    return expected | dict.fromkeys(("sparse.mha", "sparse.csv", "sparse.safetensors"), "limit")


# Peak memory includes what a process had earlier, so each bomb is read within a limit instead.
CHILD = """
import json, resource, sys
from pathlib import Path
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import safe_io, volume_file
from jax_pix2pix.losses.tensor_file import read_tensors
READERS = {
    ".png": safe_io.read_grey_png, ".jpg": safe_io.read_picture, ".gif": safe_io.read_binary_mask,
    ".tif": safe_io.read_picture, ".npy": safe_io.read_mask_npy,
    ".csv": lambda path: read_table(path, ("a",), "a"),
    ".safetensors": lambda path: read_tensors(str(path), str(path)),
}
limit = int(sys.argv[2])
for line in open("/proc/self/status"):
    if line.startswith("VmSize"):
        limit += int(line.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix == ".zraw":
        continue
    try:
        READERS.get(path.suffix, volume_file.read_ct)(path)
        found[path.name] = "read"
    except (safe_io.DataError, ConfigError) as error:
        cause = error.__cause__
        found[path.name] = "MemoryError" if isinstance(cause, MemoryError) else str(error)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    expected = bombs(tmp_path)
    # A file with more content than its header claims is read up to the claimed end.
    zeros = gzip.compress(nifti(tmp_path)) + deflated(31)
    (tmp_path / "more.nii.gz").write_bytes(zeros)
    (tmp_path / "more.png").write_bytes(png(4, 4, deflated(15)))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(LIMIT)],
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, text in expected.items():
        assert re.search(text, found[name]), (name, found[name])
        assert str(tmp_path / name) in found[name], found[name]
        assert "\n" not in found[name] and "allocate" not in found[name], found[name]
    assert found.keys() - expected.keys() == {"more.nii.gz", "more.png"}
    for name in ("more.nii.gz", "more.png"):
        known = "cannot be read", "values of 0 to 0"  # the latter was read, and is no CT
        assert found[name] == "read" or any(text in found[name] for text in known), found[name]


READ = {
    ".png": safe_io.read_grey_png,
    ".jpg": safe_io.read_picture,
    ".gif": safe_io.read_binary_mask,
    ".npy": safe_io.read_mask_npy,
    ".img": safe_io.read_img,
    **dict.fromkeys(volume_file.ENDINGS, volume_file.read_ct),
    ".csv": lambda path: read_table(path, ("patient",), "patient"),
    ".safetensors": lambda path: perceptual.read_vgg16(str(path)),
}


@pytest.mark.parametrize("ending", READ)
def test_files_of_no_bytes(tmp_path, ending):
    path = tmp_path / f"empty{ending}"
    path.touch()
    with pytest.raises((DataError, ConfigError), match=re.escape(str(path))) as caught:
        READ[ending](path)
    assert "\n" not in str(caught.value)


def test_dicom_slices_of_no_bytes(tmp_path):
    for number in range(3):
        hu = np.arange(-600, 600, 40, np.int16).reshape(5, 6)
        write_dicom(tmp_path / f"{number}.dcm", hu, ORIGIN + number * STEP)
    read_series(tmp_path)
    (tmp_path / "1.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.dcm cannot be read as a DICOM slice \(empty"):
        read_series(tmp_path)


@pytest.mark.parametrize("claimed", [2**32 - 2, 2**31, 400])
def test_dicom_elements_that_claim_more_than_there_is(tmp_path, claimed):
    """GDCM would take the claimed memory, and fill it."""
    for number in range(3):
        write_dicom(tmp_path / f"{number}.dcm", np.ones((5, 6), np.int16), ORIGIN + number * STEP)
    content = (tmp_path / "1.dcm").read_bytes()
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 8
    (tmp_path / "1.dcm").write_bytes(content[:at] + struct.pack("<I", claimed) + content[at + 4 :])
    with pytest.raises(DataError, match=rf"1\.dcm cannot .* 7fe0,0010 claims {claimed} bytes"):
        read_series(tmp_path)


@pytest.mark.parametrize("field", ["slope", "inter"])
def test_dicom_values_that_are_no_numbers(tmp_path, field):
    for number in range(3):
        position = ORIGIN + number * STEP
        write_dicom(
            tmp_path / f"{number}.dcm", np.ones((5, 6), np.int16), position, **{field: "nan"}
        )
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read_series(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", volume_file.ENDINGS)
def test_voxels_that_are_no_numbers(tmp_path, ending, value):
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:3, 1:4] = 100  # a body
    voxels[1, 2, 3] = value
    path = tmp_path / f"a{ending}"
    header = {".mha": metaimage("4 5 6", kind="MET_FLOAT"), ".nrrd": nrrd("4 5 6", "raw", "float")}
    if ending.startswith(".nii"):
        save(path, voxels)
    elif ending == ".mhd":
        path.write_bytes(metaimage("4 5 6", "a.raw", kind="MET_FLOAT"))
        (tmp_path / "a.raw").write_bytes(voxels.tobytes("F"))
    else:
        path.write_bytes(header[ending] + voxels.tobytes("F"))
    for read in (volume_file.read_ct, volume_file.read_mr, volume_file.read_labels):
        with pytest.raises(DataError, match=re.escape(str(path))):
            read(path)


@pytest.mark.parametrize("format_", ["mha", "nrrd", "nii"])
@pytest.mark.parametrize("number", ["nan", "inf", "-1e400"])
def test_headers_with_numbers_that_are_none(tmp_path, format_, number):
    path = tmp_path / f"a.{format_}"
    if format_ == "nii":
        save(path, np.zeros(SHAPE, np.int16), srow_x=[float(number)] * 4)
    elif format_ == "mha":
        path.write_bytes(metaimage(Offset=f"0 {number} 0") + bytes(240))
    else:
        path.write_bytes(nrrd(encoding="raw", space_origin=f"(0,{number},0)") + bytes(240))
    with pytest.raises(DataError, match=re.escape(str(path))):
        volume_file.read_geometry(path)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.raw", "x/a.raw", "x\\a.raw", "..", "LIST", "%03d.raw 1 4", "a\0b"]
)
def test_headers_that_name_files_elsewhere(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(240))
    for path in (folder / "a.mhd", folder / "a.mha"):
        path.write_bytes(metaimage(file=name))
        with pytest.raises(DataError, match=re.escape(str(folder))):
            volume_file.read_ct(path)
    path = folder / "a.nrrd"
    for field in ("data_file", "datafile"):
        path.write_bytes(nrrd(encoding="raw", **{field: name}))
        with pytest.raises(DataError, match="save header and voxels in one file"):
            volume_file.read_ct(path)


def lidc(folder):
    write_slice(folder, "test", "clean", "LIDC-IDRI-0003", 1)
    write_slice(folder, "train", "clean", "LIDC-IDRI-0002", 1)
    return write_slice(folder, "train", "clean", "LIDC-IDRI-0001", 1)[0]


def xray(folder):
    for kind in ("img", "mask"):
        (folder / kind).mkdir()
        for number in range(4):
            (folder / kind / f"{number}.png").write_bytes(b"x")
    return folder / "mask" / "2.png"


def luna(folder):
    for number in range(3):
        write_mhd(folder / f"{number}.mhd")
    return folder / "1.raw"


def pairs(folder):
    for name in ("mr", "ct"):
        write_mhd(folder / f"{name}.mhd")
    (folder / "pairs.csv").write_text("patient,source,ct\np,mr.mhd,ct.mhd\n")
    return folder / "pairs.csv"


def write_mhd(path):
    path.write_bytes(metaimage(file=path.with_suffix(".raw").name))
    path.with_suffix(".raw").write_bytes(bytes(240))


FOLDERS = {
    "lidc_masks": (lidc, lambda source: lidc_masks.find(source, lidc_masks.Config()).splits),
    "xray_lungs": (xray, lambda source: find_xrays(SourceFolder(source))),
    "luna16": (luna, lambda source: find_series(SourceFolder(source), with_masks=False)),
    "mri_ct": (pairs, lambda source: find_pairs(SourceFolder(source), "mr")),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_links_out_of_the_data_folder_are_refused(tmp_path, name):
    make, find = FOLDERS[name]
    source = tmp_path / "source"
    source.mkdir()
    file = make(source)
    plain = find(source)
    (tmp_path / "link").symlink_to(source)
    assert find(tmp_path / "link") == plain  # the folder itself may be a link
    elsewhere = tmp_path / f"secret{file.suffix}"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(DataError) as caught:
        find(source)
    assert str(caught.value) == (
        f"{file} is a link to outside of {source}: put a copy there instead, or give the folder "
        "that holds the files themselves"
    )
    file.unlink()
    inside = source / f".hidden{file.suffix}"
    elsewhere.rename(inside)
    file.symlink_to(inside)
    assert find(source) == plain


def test_a_folder_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    lidc(tmp_path / "source")
    (tmp_path / "source" / "test").rename(tmp_path / "test")
    (tmp_path / "source" / "test").symlink_to(tmp_path / "test")
    with pytest.raises(DataError, match="test is a link to outside of"):
        lidc_masks.find(tmp_path / "source", lidc_masks.Config())


def test_links_that_lead_to_each_other(tmp_path):
    file = lidc(tmp_path)
    file.unlink()
    file.symlink_to(file.with_name("other"))
    file.with_name("other").symlink_to(file)
    with pytest.raises(DataError, match="leads nowhere"):
        lidc_masks.find(tmp_path, lidc_masks.Config())


@pytest.mark.parametrize("name", ["/etc/passwd", "../ct.mhd", "x/../../ct.mhd", "x" * 9000])
def test_tables_name_files_of_their_folder_only(tmp_path, name):
    source = tmp_path / "source"
    source.mkdir()
    pairs(source)
    write_mhd(tmp_path / "ct.mhd")
    (source / "x").mkdir()
    (source / "pairs.csv").write_text(f"patient,source,ct\np,mr.mhd,{name}\n")
    with pytest.raises(DataError, match="in line 2, and there is no such file in"):
        find_pairs(SourceFolder(source), "mr")
    # An absolute path into the folder is as good as a relative one.
    (source / "pairs.csv").write_text(f"patient,source,ct\np,mr.mhd,{source}/ct.mhd\n")
    find_pairs(SourceFolder(source), "mr")


@pytest.mark.parametrize(
    "content",
    [
        tensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}),
        tensors({"a": tensor([4], 8, 24)}),
        tensors({"a": tensor([4], 16, 0)}),
        tensors({"a": tensor([4], 0, 4)}),
        tensors({"a": tensor([4], -16, 0)}),
        tensors({"a": tensor([2**32, 2**32], 0, 0)}),
        tensors({"a": tensor([4], 0, 16, "F128")}),
        tensors(b"[" * 100_000),
    ],
    ids=range(8),
)
def test_safetensors_with_false_offsets(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (perceptual.read_vgg16, segmenter.load):
        with pytest.raises(ConfigError, match="cannot be read as safetensors") as caught:
            read(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def vgg16(**changes):
    channels, arrays = 3, {}
    for number in (number for block in perceptual.BLOCKS for number in block):
        arrays[f"features.{number}.weight"] = np.ones((2, channels, 3, 3), np.float32)
        arrays[f"features.{number}.bias"] = np.ones(2, np.float32)
        channels = 2
    return arrays | changes


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("features.5.bias", np.array([1, np.nan], np.float32), "not finite"),
        ("features.5.bias", np.array([1, 1e300]), "not finite"),
        ("features.5.weight", np.ones((2, 2, 3, 3), int), "as int64"),
        ("features.21.weight", np.ones((0, 2, 3, 3), np.float32), "of shape"),
        ("features.0.weight", np.float32(1), "of shape"),
    ],
)
def test_weights_that_are_none(tmp_path, name, array, message):
    path = str(tmp_path / "vgg16.safetensors")
    safetensors.numpy.save_file(vgg16(), path)
    perceptual.read_vgg16(path)
    safetensors.numpy.save_file(vgg16(**{name: np.asarray(array)}), path)
    with pytest.raises(ConfigError, match=f"{name.rsplit('.', 1)[0]}.*{message}"):
        perceptual.read_vgg16(path)
