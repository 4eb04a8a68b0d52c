"""Readers give an array, or one line of their own error, for a damaged file.

Each case begins with a small valid file. Hypothesis then flips, cuts, inserts or moves bytes and
sets integers and numbers of headers to extremes.
"""

import gzip
import io
import json
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import safetensors.numpy
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from input_pipeline import prepared_files
from input_pipeline.preparation.tables import read_table
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import safe_io, volume_file
from jax_pix2pix.imaging.formats.dicom import read_series
from jax_pix2pix.imaging.memory import MAX_BYTES
from jax_pix2pix.imaging.xrays import read_xray
from jax_pix2pix.losses import perceptual, segmenter
from tests.imaging.test_dicom import ORIGIN, STEP
from tests.imaging.test_dicom import write_slice as write_dicom
from tests.input_pipeline.conftest import OPTIONS, write_slice
from tests.input_pipeline.volumes import save

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 11), np.uint8)
VOXELS = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)

INTEGERS = [
    value.to_bytes(size, order, signed=True)
    for size in (2, 4, 8)
    for order in ("little", "big")
    for value in (0, -1, 1 << 14, (1 << (8 * size - 1)) - 1, -1 << (8 * size - 1))
]
FLOATS = [
    struct.pack(order + kind, value)
    for kind in "fd"
    for order in "<>"
    for value in (float("nan"), float("inf"), -1e38)
]
NUMBERS = [
    b"-1", b"0", b"2", b"65536", b"4294967297", b"99999999999999999999", b"nan", b"-inf", b"1e400",
    b"1e-300", b"9" * 5000, b"x", b"", b"../../x", b"[" * 2000,
]  # fmt: skip
# Most of what can go wrong is in a header.
PLACES = st.one_of(st.integers(0, 400), st.integers(0, 2**16))
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("overwrite"), PLACES, st.sampled_from(INTEGERS + FLOATS)),
        st.tuples(st.just("overwrite"), PLACES, st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("number"), st.integers(0, 40), st.sampled_from(NUMBERS)),
        st.tuples(st.just("cut"), PLACES, st.integers(0, 2**16)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 400)),
        st.tuples(st.just("end"), PLACES),
    ),
    min_size=1,
    max_size=4,
)


def changed(content, changes):
    for what, place, *how in changes:
        if what == "number":
            found = list(re.finditer(rb"[-+\d.]+", content[:2000]))
            if found:
                match = found[place % len(found)]
                content = content[: match.start()] + how[0] + content[match.end() :]
            continue
        place %= len(content) + 1
        before, after = content[:place], content[place:]
        if what == "overwrite":
            content = before + how[0] + after[len(how[0]) :]
        elif what == "insert":
            content = before + how[0] + after
        elif what == "cut":
            content = before + after[how[0] % (len(after) + 1) :]
        elif what == "repeat":
            content = before + after[: how[0]] + after
        else:
            content = before
    return content


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_checksums(content):
    """A PNG whose chunks have the right checksums, so that a decoder looks into them."""
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunk = content[place + 4 : place + 8 + length]
        parts.append(content[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        place += 12 + length
    return b"".join(parts)


def itk(folder, name, compress=False):
    """Files of a volume as SimpleITK writes them: {name: content}."""
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((0.7, 1.1, 2.5))
    sitk.WriteImage(image, str(folder / name), compress)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def nifti(folder, voxels=VOXELS, **fields):
    return {"a.nii": save(folder / "a.nii", voxels, **fields).read_bytes()}


def dicom(folder):
    for number in range(3):
        pixels = VOXELS[number]
        write_dicom(folder / f"{number}.dcm", pixels, ORIGIN + number * STEP)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def xray(folder):
    write_dicom(folder / "a.dcm", VOXELS[0], ORIGIN, modality="DX")
    return {"a.dcm": (folder / "a.dcm").read_bytes()}


def vgg16(folder):
    channels, arrays = 3, {}
    for number in (number for block in perceptual.BLOCKS for number in block):
        arrays[f"features.{number}.weight"] = np.ones((2, channels, 3, 3), np.float32)
        arrays[f"features.{number}.bias"] = np.ones(2, np.float32)
        channels = 2
    return {"a.safetensors": safetensors.numpy.save(arrays)}


def unet(folder):
    """A U-Net of depth 1: its two convolutions."""
    arrays = {
        "params/encode_0/kernel": np.ones((4, 4, 4, 1, 2), np.float16),
        "params/encode_0/bias": np.ones(2, np.float16),
        "params/decode_0/kernel": np.ones((4, 4, 4, 2, 1), np.float16),
        "params/decode_0/bias": np.ones(1, np.float16),
    }
    metadata = {
        "format": segmenter.FORMAT,
        "version": segmenter.VERSION,
        "generator": json.dumps({"width": 2, "depth": 1, "skips": True}),
        "size": "[2, 4, 4]",
        "source_range": "[-1000, 400]",
    }
    return {"a.safetensors": safetensors.numpy.save(arrays, metadata)}


def prepared(folder):
    """The files that a preparation writes beside the records."""
    names = ("features.json", "dataset_info.json", TABLE_OF_SHARD)
    for index in range(3):
        write_slice(folder / "source", "train", "clean", "1", index)
        write_slice(folder / "source", "test", "clean", "2", index)
    directory = prepare("lidc_masks", folder / "source", folder / "data", **OPTIONS)
    return {name: (directory / name).read_bytes() for name in names}


def check_shards(folder):
    shards = prepared_files.read_shards(folder, "train")
    assert all(0 < length < 2**31 for _, length in shards)
    return shards


def of(name, content):
    return lambda folder: {name: content}


def reads(reader, name):
    return lambda folder: reader(folder / name)


def values(read):
    return lambda folder: read(folder).values


CT, MR, LABELS = volume_file.read_ct, volume_file.read_mr, volume_file.read_labels
FLOAT_VOXELS = VOXELS.astype(np.float32)
TABLE_OF_SHARD = "lidc_masks-train.array_record-00000-of-00001.csv"
ROWS = 2  # of that table
TABLE = b"patient,source,ct,mask\np1,a.mha,b.mha,c.mha\np2,d.mha,e.mha,\n"
# name: (folder -> {name of a file: content}, the file that is changed, folder -> what is read,
# what is done to the changed content, number of examples).
CASES = {
    "png": (
        of("a.png", encoded(GREY, "png")), "a.png", reads(safe_io.read_grey_png, "a.png"), None, 100
    ),
    "png, right checksums": (
        of("a.png", encoded(np.stack([GREY] * 3, -1), "png")), "a.png",
        lambda folder: safe_io.read_deep_picture(folder / "a.png", 3).pixels, with_checksums, 300,
    ),
    "png mask": (
        of("a.png", encoded(GREY > 99, "png")), "a.png", reads(safe_io.read_binary_mask, "a.png"),
        with_checksums, 200,
    ),
    "jpeg": (
        of("a.jpg", encoded(GREY, "jpeg")), "a.jpg", reads(safe_io.read_picture, "a.jpg"), None, 300
    ),
    "tiff": (
        of("a.tif", encoded(GREY, "tiff")), "a.tif", reads(safe_io.read_picture, "a.tif"), None, 200
    ),
    "dicom of an X-ray": (
        xray, "a.dcm", lambda folder: read_xray(folder / "a.dcm", 1).pixels, None, 100
    ),
    "gif": (
        of("a.gif", encoded(np.uint8(255) * (GREY > 99), "gif")), "a.gif",
        reads(safe_io.read_binary_mask, "a.gif"), None, 300,
    ),
    "npy": (
        of("a.npy", npy(GREY)), "a.npy", reads(safe_io.read_mask_npy, "a.npy"), None, 300
    ),
    "npy of floats": (
        of("a.npy", npy(GREY.astype(np.float64))), "a.npy", reads(safe_io.read_mask_npy, "a.npy"),
        None, 100,
    ),
    "jsrt": (
        of("a.img", bytes(2048 * 2048 * 2)), "a.img", reads(safe_io.read_img, "a.img"), None, 15
    ),
    "nifti": (nifti, "a.nii", values(reads(CT, "a.nii")), None, 400),
    "nifti of floats, scaled": (
        lambda folder: nifti(folder, FLOAT_VOXELS, scl_slope=2, scl_inter=1), "a.nii",
        values(reads(MR, "a.nii")), None, 300,
    ),
    "nifti of labels": (
        lambda folder: nifti(folder, np.abs(FLOAT_VOXELS) // 8), "a.nii",
        values(reads(LABELS, "a.nii")), None, 200,
    ),
    "nifti, compressed": (
        lambda folder: {"a.nii.gz": gzip.compress(nifti(folder)["a.nii"])}, "a.nii.gz",
        values(reads(CT, "a.nii.gz")), None, 200,
    ),
    "nifti, then compressed": (
        lambda folder: {"a.nii.gz": nifti(folder)["a.nii"]}, "a.nii.gz",
        values(reads(CT, "a.nii.gz")), gzip.compress, 200,
    ),
    "dicom": (dicom, "1.dcm", values(read_series), None, 150),
    "mha": (
        lambda folder: itk(folder, "a.mha"), "a.mha", values(reads(CT, "a.mha")), None, 400
    ),
    "mha, compressed": (
        lambda folder: itk(folder, "a.mha", True), "a.mha", values(reads(CT, "a.mha")), None, 300
    ),
    "mhd": (
        lambda folder: itk(folder, "a.mhd"), "a.mhd", values(reads(CT, "a.mhd")), None, 300
    ),
    "raw": (
        lambda folder: itk(folder, "a.mhd"), "a.raw", values(reads(CT, "a.mhd")), None, 50
    ),
    "zraw": (
        lambda folder: itk(folder, "a.mhd", True), "a.zraw", values(reads(CT, "a.mhd")), None, 200
    ),
    "nrrd": (
        lambda folder: itk(folder, "a.nrrd"), "a.nrrd", values(reads(CT, "a.nrrd")), None, 400
    ),
    "nrrd, compressed": (
        lambda folder: itk(folder, "a.nrrd", True), "a.nrrd", values(reads(CT, "a.nrrd")), None, 300
    ),
    "table": (
        of("patients.csv", TABLE), "patients.csv",
        lambda folder: read_table(folder / "patients.csv", ("patient", "source", "ct"), "x"),
        None, 300,
    ),
    "prepared, features": (
        prepared, "features.json", prepared_files.read_arrays, None, 300
    ),
    "prepared, splits": (prepared, "dataset_info.json", check_shards, None, 300),
    "prepared, table": (
        prepared, TABLE_OF_SHARD,
        lambda folder: prepared_files.read_table(folder / TABLE_OF_SHARD, ROWS), None, 300,
    ),
    "vgg16": (
        vgg16, "a.safetensors",
        lambda folder: perceptual.read_vgg16(str(folder / "a.safetensors")), None, 200,
    ),
    "segmenter": (
        unet, "a.safetensors", lambda folder: segmenter.load(str(folder / "a.safetensors")), None,
        100,
    ),
}  # fmt: skip

# Changes to try besides the drawn ones; numbers are counted from the beginning of the file.
SEEDS = {
    "npy": [[("number", 1, b"-9"), ("number", 2, b"-11")]],
    "npy of floats": [[("number", 1, b"True")]],
}


def read_quietly(read, folder):
    """A reader's result, or None if it raised its own error. Warnings are failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in safe_io
        try:
            return read(folder)
        except (safe_io.DataError, ConfigError) as refusal:
            message = str(refusal)
            assert str(folder) in message and "\n" not in message and len(message) < 1000, message
            return None


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    make, damaged, read, wrap, examples = CASES[name]
    (tmp_path / "made").mkdir()
    files = make(tmp_path / "made")
    folder = tmp_path / "read"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / damaged).write_bytes((wrap or bytes)(files[damaged]))
    assert read_quietly(read, folder) is not None  # while it is whole

    @settings(
        derandomize=True,
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(CHANGES)
    def check(changes):
        content = changed(files[damaged], changes)
        (folder / damaged).write_bytes((wrap or bytes)(content))
        found = read_quietly(read, folder)
        if isinstance(found, np.ndarray):
            assert found.ndim in (2, 3) and found.nbytes <= MAX_BYTES
            assert np.isfinite(found).all()

    for seed in SEEDS.get(name, ()):
        check = example(seed)(check)
    check()
