"""MetaImage and NRRD beside NIfTI, and from one to the other: SimpleITK is the witness."""

import itertools
import os
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_file

ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
TEXT = (".mha", ".mhd", ".nrrd")
SHAPE = (4, 5, 6)  # slices, rows, columns of SimpleITK's arrays
SPACING = (0.7123456789012345, 1.1, 3.3)


def directions(seed=0):
    """A rotation by some 20 degrees, drawn."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(3) + 0.2 * rng.normal(size=(3, 3)))
    return turn * np.sign(np.diag(turn))


GEOMETRIES = {
    "straight": np.eye(3),
    "reversed z": np.diag([1.0, 1.0, -1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.eye(3)[[2, 0, 1]],
    "oblique": directions(),
    "oblique, reversed z": directions(1) @ np.diag([1.0, 1.0, -1.0]),
}
DTYPES = ("int16", "uint8", "float32")


def image_of(direction, dtype="int16", seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        values = rng.uniform(-1000, 1000, SHAPE).astype(dtype)
    else:
        values = rng.integers(0 if dtype == "uint8" else -1000, 256, SHAPE).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin((-120.1, 33.3333333333333, 1e-3))
    image.SetDirection(direction.ravel().tolist())
    return image


def save(path, image, compress=True):
    sitk.WriteImage(image, str(path), compress)
    return path


def placement(path):
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_pictures_and_their_way_back_in_every_geometry(tmp_path, ending, name, dtype):
    image = image_of(GEOMETRIES[name], dtype)
    path = save(tmp_path / f"mr{ending}", image)
    volume = volume_file.read_mr(path)
    # SimpleITK has the nearest axes alike.
    witness = sitk.DICOMOrient(image, "LPS")
    expected = sitk.GetArrayFromImage(witness).astype(np.float32)
    np.testing.assert_array_equal(volume.values, expected, strict=True)
    np.testing.assert_allclose(volume.spacing_mm, witness.GetSpacing()[::-1], rtol=1e-6)
    assert volume.geometry.shape == volume_file.read_geometry(path).shape

    hu = np.rint(volume.values).astype(np.int16)
    volume_file.write_hu(tmp_path / f"sct{ending}", hu, volume)
    assert placement(tmp_path / f"sct{ending}") == placement(path)
    written = sitk.ReadImage(str(tmp_path / f"sct{ending}"))
    assert written.GetPixelIDTypeAsString() == "16-bit signed integer"
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(written), np.rint(sitk.GetArrayFromImage(image))
    )


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in itertools.permutations(ENDINGS[1:], 2)]
)
def test_another_format_has_the_voxels_in_the_same_places(tmp_path, source, target, name):
    image = image_of(GEOMETRIES[name])
    volume = volume_file.read_ct(save(tmp_path / f"ct{source}", image))
    volume_file.write_hu(tmp_path / f"sct{target}", volume.values, volume)
    written = sitk.ReadImage(str(tmp_path / f"sct{target}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (5, 0, 1), (2, 4, 3)):
        np.testing.assert_allclose(
            written.TransformIndexToPhysicalPoint(index),
            image.TransformIndexToPhysicalPoint(index),
            atol=1e-4,  # NIfTI's float32
        )
    one, other = (
        volume_file.read_geometry(tmp_path / name) for name in (f"ct{source}", f"sct{target}")
    )
    one.check_same_grid("ct", other, "sct")
    if target == ".nii.gz":
        header = nib.load(tmp_path / "sct.nii.gz").header
        assert header["qform_code"] == header["sform_code"] == 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ending", TEXT)
def test_oblique_axes_are_kept_bit_for_bit(tmp_path, ending, seed):
    # SimpleITK itself changes the last bits of NRRD's, which are products, from file to file.
    path = save(tmp_path / f"ct{ending}", image_of(directions(seed)))
    volume = volume_file.read_ct(path)
    volume_file.write_hu(tmp_path / f"sct{ending}", volume.values, volume)
    assert placement(tmp_path / f"sct{ending}") == placement(path)


@pytest.mark.parametrize("ending", TEXT)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float32",
        "float64",
    ],
)
def test_every_type_of_numbers(tmp_path, dtype, compress, ending):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, SHAPE).astype(dtype)
    path = save(tmp_path / f"labels{ending}", sitk.GetImageFromArray(values), compress)
    for read, kind in (
        (volume_file.read_ct, "int16"),
        (volume_file.read_mr, "float32"),
        (volume_file.read_labels, "uint8"),
    ):
        np.testing.assert_array_equal(read(path).values, values.astype(kind), strict=True)
    for write, kind in ((volume_file.write_mask, "uint8"), (volume_file.write_map, "float32")):
        volume = volume_file.read_ct(path)
        write(tmp_path / f"out{ending}", values.astype(kind), volume)
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"out{ending}")))
        np.testing.assert_array_equal(written, values.astype(kind), strict=True)


MHA = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "True",
    "Orientation": "0 1 0 1 0 0 0 0 -1",
    "Position": "1 2 3",
    "ElementSpacing": "1 2 3",
    "DimSize": "2 3 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
NRRD = {
    "type": "signed short",
    "dimension": "3",
    "space": "RAS",
    "sizes": "2 3 4",
    "space directions": "(0,1,0) (2,0,0) (0,0,-3)",
    "endian": "big",
    "encoding": "raw",
    "space origin": "(1,2,3)",
}
BIG_ENDIAN = np.arange(24, dtype=">i2").tobytes()


def write_header(path, content=BIG_ENDIAN, **changes):
    """A sound file of big-endian voxels in unusual axes, but for changed fields; None drops one."""
    mha = path.suffix in (".mha", ".mhd")
    if path.suffix == ".mhd":
        path.with_suffix(".raw").write_bytes(content)
        changes = {"ElementDataFile": path.with_suffix(".raw").name} | changes
        content = b""
    fields = (MHA if mha else NRRD) | {key.replace("_", " "): text for key, text in changes.items()}
    last = {"ElementDataFile": fields.pop("ElementDataFile")} if mha else {}
    between = " = " if mha else ": "
    lines = [f"{key}{between}{text}\n" for key, text in (fields | last).items() if text is not None]
    start = "" if mha else "NRRD0005\n# a comment\nsome key:=some value\n"
    path.write_bytes((start + "".join(lines) + ("" if mha else "\n")).encode() + content)
    return path


@pytest.mark.parametrize("ending", TEXT)
def test_what_other_programs_write(tmp_path, ending):
    path = write_header(tmp_path / f"ct{ending}")
    witness = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    volume = volume_file.read_ct(path)
    np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(witness))
    assert volume.values.shape == (4, 2, 3)  # the first axis runs through the rows
    volume_file.write_hu(tmp_path / f"out{ending}", volume.values, volume)
    assert placement(tmp_path / f"out{ending}") == placement(path)


@pytest.mark.parametrize("compress", [False, True])
def test_voxels_beside_their_header(tmp_path, compress):
    """As ITK writes them, under names with blanks, and without a last line's end."""
    path = save(tmp_path / "a b.1.mhd", image_of(directions()), compress)
    beside = tmp_path / f"a b.1.{'z' * compress}raw"
    assert sorted(tmp_path.iterdir()) == sorted([path, beside])
    assert volume_file.voxel_file(path) == beside
    volume = volume_file.read_ct(path)
    path.write_bytes(path.read_bytes().rstrip())
    np.testing.assert_array_equal(volume_file.read_ct(path).values, volume.values)

    volume_file.write_hu(tmp_path / "ü.out.mhd", volume.values, volume)
    assert (tmp_path / "ü.out.raw").stat().st_size == 2 * volume.values.size
    assert volume_file.voxel_file(tmp_path / "ü.out.mhd") == tmp_path / "ü.out.raw"
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ü.out.mhd"))),
        sitk.GetArrayFromImage(image_of(directions())),
    )


def test_a_header_may_hold_the_voxels_itself(tmp_path):
    save(tmp_path / "ct.mha", image_of(np.eye(3)))
    os.replace(tmp_path / "ct.mha", tmp_path / "ct.mhd")
    assert volume_file.voxel_file(tmp_path / "ct.mhd") is None
    values = sitk.GetArrayFromImage(image_of(np.eye(3)))
    np.testing.assert_array_equal(volume_file.read_ct(tmp_path / "ct.mhd").values, values)


PACKED = zlib.compress(BIG_ENDIAN)
SPOILT = {
    ".mha": {
        "text": (b"volume\n", {}, "does not begin as MetaImage"),
        "header without end": (b"", {"ElementDataFile": "LOCAL" + "x" * 2**21}, "does not end"),
        "elsewhere": (b"", {"ElementDataFile": "ct.raw"}, "save header and voxels in one"),
        "ascii": (b"", {"BinaryData": "False"}, "save it in binary"),
        "colours": (b"", {"ElementNumberOfChannels": "3"}, "one number a voxel"),
        "unknown type": (b"", {"ElementType": "MET_STRING"}, "holds MET_STRING"),
        "no type": (b"", {"ElementType": None}, "no 'ElementType'"),
        "two dimensions": (b"", {"DimSize": "2 3"}, "three dimensions"),
        "no slices": (b"", {"DimSize": "2 3 0"}, "three dimensions"),
        "no size": (b"", {"DimSize": "two"}, "cannot be read as a MetaImage"),
        "too large": (b"", {"DimSize": "30000 30000 30000"}, "above the limit"),
        "truncated": (BIG_ENDIAN[:-1], {}, "no 48 bytes"),
        "small and compressed": (
            PACKED,
            {"CompressedData": "True", "DimSize": "1000 1000 200"},
            "no 400000000 bytes",
        ),
        "truncated and compressed": (PACKED[:-1], {"CompressedData": "True"}, "does not end"),
        "of other voxels": (
            zlib.compress(bytes(46)),
            {"CompressedData": "True"},
            "46 of 48 bytes",
        ),
        "of more voxels": (zlib.compress(bytes(480)), {"CompressedData": "True"}, "not end"),
        "checksum": (
            PACKED[:-1] + bytes([PACKED[-1] ^ 1]),
            {"CompressedData": "True"},
            "incorrect data check",
        ),
        "nowhere": (b"", {"Position": "nan 0 0"}, "the numbers nan 0 0"),
        "few numbers": (b"", {"Position": "0 0"}, "cannot be read as a MetaImage"),
        "large voxels": (b"", {"ElementSpacing": "1 1 1000"}, "1000 mm"),
        "mirrored": (b"", {"ElementSpacing": "1 1 -1"}, "its ElementSpacing is 1 1 -1"),
        "singular": (b"", {"Orientation": "1 0 0 1 0 0 0 0 1"}, "singular"),
        "inches": (b"", {"DistanceUnits": "in"}, "convert it to mm"),
    },
    ".mhd": {
        "a path": (b"", {"ElementDataFile": "/etc/passwd"}, "in the same folder"),
        "a path upwards": (b"", {"ElementDataFile": "../ct.raw"}, "in the same folder"),
        "a path of Windows": (b"", {"ElementDataFile": "a\\ct.raw"}, "in the same folder"),
        "the folder above": (b"", {"ElementDataFile": ".."}, "in the same folder"),
        "a list": (b"", {"ElementDataFile": "LIST"}, "save the voxels in one file"),
        "a pattern": (b"", {"ElementDataFile": "ct%02d.raw 1 4 1"}, "save the voxels in one file"),
        "nothing": (b"", {"ElementDataFile": ""}, "save the voxels in one file"),
        "no such file": (b"", {"ElementDataFile": "other.raw"}, "other.raw cannot be read as the"),
        "the folder": (b"", {"ElementDataFile": "."}, "in the same folder"),
        "skipped": (b"", {"HeaderSize": "-1"}, "save it anew"),
        "too large": (b"", {"DimSize": "30000 30000 30000"}, "above the limit"),
        "truncated": (BIG_ENDIAN[:-1], {}, "no 48 bytes"),
        "small and compressed": (
            PACKED,
            {"CompressedData": "True", "DimSize": "1000 1000 200"},
            "no 400000000 bytes",
        ),
        "truncated and compressed": (PACKED[:-1], {"CompressedData": "True"}, "does not end"),
        "checksum": (
            PACKED[:-1] + bytes([PACKED[-1] ^ 1]),
            {"CompressedData": "True"},
            "incorrect data check",
        ),
        "two dimensions": (b"", {"DimSize": "2 3", "ElementSpacing": "1 1"}, "three dimensions"),
    },
    ".nrrd": {
        "elsewhere": (b"", {"data_file": "/etc/passwd"}, "save header and voxels in one file"),
        "skipped": (b"", {"byte_skip": "-1"}, "save header and voxels in one file"),
        "bzip2": (b"", {"encoding": "bzip2"}, "save it as raw or gzip"),
        "no encoding": (b"", {"encoding": None}, "no 'encoding'"),
        "blocks": (b"", {"type": "block"}, "one number a voxel"),
        "no space": (b"", {"space": None}, "where the patient's left is"),
        "four dimensions": (b"", {"sizes": "2 3 4 5"}, "three dimensions"),
        "colours": (b"", {"space_directions": "none (0,1,0) (2,0,0)"}, "cannot be read as NRRD"),
        "metres": (b"", {"space_units": '"m" "m" "m"'}, "convert it to mm"),
        "truncated": (BIG_ENDIAN[:-1], {}, "no 48 bytes"),
        "not gzip": (BIG_ENDIAN, {"encoding": "gzip"}, "cannot be read as NRRD"),
        "singular": (b"", {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "singular"),
    },
}


@pytest.mark.parametrize(
    ("ending", "case"), [(ending, case) for ending in SPOILT for case in SPOILT[ending]]
)
def test_refuses_a_file(tmp_path, ending, case):
    content, changes, word = SPOILT[ending][case]
    path = write_header(tmp_path / f"ct{ending}", content or BIG_ENDIAN, **changes)
    if case == "text":
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        volume_file.read_ct(path)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")
    assert word in text and "\n" not in text


@pytest.mark.parametrize("ending", TEXT)
def test_refuses_a_file_that_is_empty_missing_or_of_another_format(tmp_path, ending):
    path = tmp_path / f"ct{ending}"
    with pytest.raises(DataError, match="No such file"):
        volume_file.read_geometry(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="does not end"):
        volume_file.read_geometry(path)
    save(tmp_path / "ct.nii", image_of(np.eye(3)))
    os.replace(tmp_path / "ct.nii", path)
    with pytest.raises(DataError, match="cannot be read"):
        volume_file.read_geometry(path)


def test_other_endings_are_refused(tmp_path):
    for name in ("ct.raw", "ct.png", "nii"):
        with pytest.raises(DataError, match=r"must end in \.nii"):
            volume_file.read_geometry(tmp_path / name)
    assert volume_file.without_ending("a/CT.1.NII.GZ") == "a/CT.1"


def test_an_mr_must_hold_numbers_that_float32_holds(tmp_path):
    for value in (np.inf, 1e300):
        values = np.zeros(SHAPE)
        values[1, 2, 3] = value
        path = save(tmp_path / "mr.nrrd", sitk.GetImageFromArray(values))
        with pytest.raises(DataError, match="infinite or too large"):
            volume_file.read_mr(path)
