"""Reading and writing NIfTI volumes: SimpleITK and nibabel's own scaling are the witnesses."""

import gzip
import itertools
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_file
from tests.input_pipeline.volumes import SPACING_MM, axes_affine, save

SHAPE = (5, 6, 7)
MARK = (4, 1, 5)


def voxels_of(dtype=np.int16, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(-1000, 1000, shape).astype(dtype)
    low = max(-1000, np.iinfo(dtype).min)
    return rng.integers(low, min(1000, np.iinfo(dtype).max), shape, endpoint=True).astype(dtype)


# Where voxels are.

FLIPPED = list(itertools.product((1, -1), repeat=3))
ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("signs", FLIPPED, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_axis_order_becomes_the_same_pictures_and_goes_back(tmp_path, order, signs):
    voxels = voxels_of()
    path = save(tmp_path / "ct.nii", voxels, axes_affine(order, signs))
    volume = volume_file.read_ct(path)
    # SimpleITK's arrays are [z, y, x]: with "LPS" to the head, to the back and to the left.
    image = sitk.ReadImage(str(path))
    witness = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(witness))
    np.testing.assert_allclose(volume.spacing_mm, witness.GetSpacing()[::-1], rtol=1e-6)
    assert volume.values.shape == volume_file.read_geometry(path).shape

    mask = (volume.values == voxels[MARK]).astype(np.uint8)
    volume_file.write_mask(tmp_path / "mask.nii.gz", mask, volume)
    written = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert written.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert written.GetSize() == image.GetSize() == SHAPE
    assert written.GetPixel(MARK) == 1 and sitk.GetArrayFromImage(written).sum() == mask.sum()
    assert written.TransformIndexToPhysicalPoint(MARK) == image.TransformIndexToPhysicalPoint(MARK)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image) == voxels[MARK]
    )


def rotated(degrees):
    """Axes LPS, turned about the first."""
    angle = np.radians(degrees)
    affine = axes_affine((0, 1, 2), (-1, -1, 1))
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[1:3, 1:3] = turn @ affine[1:3, 1:3]
    return affine


def test_an_oblique_volume_has_the_nearest_axes(tmp_path):
    voxels = voxels_of()
    path = save(tmp_path / "ct.nii", voxels, rotated(20))
    volume = volume_file.read_ct(path)
    np.testing.assert_array_equal(volume.values, voxels.transpose())  # of axes LPS
    assert volume.geometry.tilt_degrees == pytest.approx(20, abs=1e-3)
    np.testing.assert_allclose(volume.spacing_mm, SPACING_MM[::-1], rtol=1e-6)
    straight = volume_file.read_ct(save(tmp_path / "straight.nii", voxels))
    assert straight.geometry.tilt_degrees == 0


@pytest.mark.parametrize(
    ("kind", "image"),
    [(nib.Nifti1Header, nib.Nifti1Image), (nib.Nifti2Header, nib.Nifti2Image)],
)
@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (4, 4)])
def test_a_mask_has_the_affines_and_codes_of_its_volume(tmp_path, kind, image, sform, qform):
    path = save(
        tmp_path / "ct.nii.gz",
        voxels_of(shape=(*SHAPE, 1)),
        rotated(7),
        kind=kind,
        sform_code=sform,
        qform_code=qform,
    )
    volume = volume_file.read_ct(path)
    mask = volume.values > 0
    with pytest.raises(TypeError):
        volume_file.write_mask(tmp_path / "mask.nii", mask.astype(np.float32), volume)
    volume_file.write_mask(tmp_path / "mask.nii", mask.astype(np.uint8), volume)
    source, written = nib.load(path), nib.load(tmp_path / "mask.nii")
    assert type(written) is image and written.shape == source.shape == (*SHAPE, 1)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, source.affine)
    for coded in ("get_sform", "get_qform"):
        (one, code), (other, other_code) = (
            getattr(one.header, coded)(coded=True) for one in (source, written)
        )
        assert code == other_code
        np.testing.assert_array_equal(one, other)
    assert written.header.get_zooms() == source.header.get_zooms()
    assert written.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj) > 0)


def test_a_map_keeps_its_fractions(tmp_path):
    volume = volume_file.read_ct(save(tmp_path / "ct.nii", voxels_of()))
    values = np.random.default_rng(0).random(volume.values.shape)
    volume_file.write_map(tmp_path / "map.nii.gz", values, volume)
    written = np.asarray(nib.load(tmp_path / "map.nii.gz").dataobj)
    np.testing.assert_array_equal(
        written, volume.geometry.to_file(values).astype(np.float32), strict=True
    )


def test_masks_are_written_where_they_can_be_read_again(tmp_path):
    volume = volume_file.read_ct(save(tmp_path / "ct.nii", voxels_of()))
    mask = np.zeros(volume.values.shape, np.uint8)
    with pytest.raises(DataError, match=r"must end in \.nii"):
        volume_file.write_mask(tmp_path / "mask.png", mask, volume)
    with pytest.raises(ValueError, match="shape"):
        volume_file.write_mask(tmp_path / "mask.nii", mask[:-1], volume)


# What voxels are.


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [
        ("i1", 7.9, -0.3),
        ("u1", 7.8, -1000.3),
        *itertools.product(["<i2", ">i2", "i4", "f4", ">f8"], [1], [0]),
        *(
            (dtype, *scale)
            for dtype in ("<i2", "u2", ">f8")
            for scale in ((0.25, -1020.3), (-2, 1007))
        ),
    ],
)
def test_hounsfield_units_are_scaled_and_rounded_once(tmp_path, dtype, slope, inter, suffix):
    stored = ((voxels_of() - inter) / slope).astype(dtype)
    path = save(tmp_path / f"ct{suffix}", stored, scl_slope=slope, scl_inter=inter)
    volume = volume_file.read_ct(path)
    image = nib.as_closest_canonical(nib.load(path))  # axes RAS
    expected = np.rint(image.get_fdata(dtype=np.float64)).transpose()[:, ::-1, ::-1]
    np.testing.assert_array_equal(volume.values, expected.astype(np.int16), strict=True)


def test_scaling_has_64_bits(tmp_path):
    slope = np.float32(10_000.5 / 32767)
    if 32767 * np.float64(slope) <= 10_000.5:
        slope = np.nextafter(slope, np.float32(1))
    # A little more than a half, which 32 bits would round to one, and then to an even number.
    assert 10_000.5 < 32767 * np.float64(slope) and np.float32(32767) * slope == 10_000.5
    voxels = np.full(SHAPE, 32767, np.int16)
    voxels[MARK] = -3000
    values = volume_file.read_ct(save(tmp_path / "ct.nii", voxels, scl_slope=slope)).values
    assert sorted(set(values.ravel().tolist())) == [-916, 10_001]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_labels_are_exact(tmp_path, dtype):
    voxels = np.random.default_rng(0).integers(0, 256, SHAPE).astype(dtype)
    labels = volume_file.read_labels(save(tmp_path / "labels.nii.gz", voxels)).values
    np.testing.assert_array_equal(labels, voxels.transpose()[:, ::-1, ::-1].astype(np.uint8))
    assert labels.dtype == np.uint8


def test_a_compressed_file_need_not_say_so(tmp_path):
    path = save(tmp_path / "ct.nii.gz", voxels_of())
    expected = volume_file.read_ct(path).values
    path.rename(tmp_path / "ct.nii")
    np.testing.assert_array_equal(volume_file.read_ct(tmp_path / "ct.nii").values, expected)


def test_a_qfac_of_zero_is_one(tmp_path):
    pixdim = [0, *SPACING_MM, 1, 1, 1, 1]
    path = save(tmp_path / "ct.nii", voxels_of(), sform_code=0, pixdim=pixdim)
    assert volume_file.read_geometry(path).affine[2, 2] == pytest.approx(SPACING_MM[2])


# What is refused: a good volume, spoilt, and what the message must hold.


def header(**fields):
    return lambda path: save(path, voxels_of(), **fields)


def dimensions(*dim):
    return header(dim=[len(dim), *dim, *[1] * (7 - len(dim))])


def affine_of(affine):
    rows = np.asarray(affine, float)
    return header(srow_x=rows[0], srow_y=rows[1], srow_z=rows[2])


def truncated(path):
    save(path, voxels_of())
    os.truncate(path, path.stat().st_size - 1)


def truncated_header(path):
    save(path, voxels_of())
    os.truncate(path, 200)


def text(path):
    path.write_text("volume")


def empty(path):
    path.write_bytes(b"")


def missing(path):
    pass


def complex_voxels(path):
    save(path, np.zeros(SHAPE, np.complex64))


def colours(path):
    save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


SPOILT_HEADERS = {
    "text": (text, "does not begin as NIfTI"),
    "empty": (empty, "does not begin as NIfTI"),
    "missing": (missing, "No such file"),
    "truncated header": (truncated_header, "cannot be read"),
    "pair of files": (header(magic=b"ni1"), "signature"),
    "two dimensions": (dimensions(5, 6), "three dimensions"),
    "four dimensions": (dimensions(5, 6, 7, 2), "three dimensions"),
    "eight dimensions": (header(dim=[8, *[1] * 7]), "three dimensions"),
    "no slices": (dimensions(5, 6, 0), "three dimensions"),
    "negative": (dimensions(5, 6, -7), "three dimensions"),
    "too large": (dimensions(30000, 30000, 30000), "above the limit"),
    "larger than the file": (dimensions(5, 6, 8), "no 480 bytes"),
    "offset in the header": (header(vox_offset=40), "begin at byte 40"),
    "offset is no number": (header(vox_offset=np.nan), "begin at byte nan"),
    "offset beyond": (header(vox_offset=1e30), "begin at byte 1e+30"),
    "unknown type": (header(datatype=77), "cannot be read"),
    "complex": (complex_voxels, "one number a voxel"),
    "colours": (colours, "one number a voxel"),
    "metres": (header(xyzt_units=1), "is in metres"),
    "no code": (header(qform_code=0, sform_code=0), "where the patient's left is"),
    "nowhere": (affine_of(np.zeros((3, 4))), "0 x 0 x 0 mm"),
    "not a number": (affine_of(np.full((3, 4), np.nan)), "nan"),
    "infinite origin": (
        affine_of([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0]]),
        "correct its affine",
    ),
    "singular": (affine_of([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]), "singular"),
    "tiny voxels": (affine_of(np.eye(3, 4) / 1000), "0.001 mm"),
    "large voxels": (affine_of(np.eye(3, 4) * 1000), "1000 mm"),
    "mirrored": (
        header(srow_x=[-SPACING_MM[0], 0, 0, 0]),
        "towards LAS in its sform, but",
    ),
    "bad scaling": (header(scl_slope=1, scl_inter=np.inf), "intercept"),
}


@pytest.mark.parametrize("case", SPOILT_HEADERS)
def test_refuses_a_header(tmp_path, case):
    path = tmp_path / "volume-0.nii"
    spoil, word = SPOILT_HEADERS[case]
    spoil(path)
    with pytest.raises(DataError) as caught:
        volume_file.read_geometry(path)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")  # which holds the case's name
    assert word in text and "\n" not in text
    with pytest.raises(DataError):
        volume_file.read_ct(path)


def test_a_small_compressed_file_cannot_claim_much(tmp_path):
    dim = [3, 1000, 1000, 300, 1, 1, 1, 1]
    path = save(tmp_path / "ct.nii.gz", voxels_of(), dim=dim)
    with pytest.raises(DataError, match="no 600000000 bytes"):
        volume_file.read_geometry(path)
    # What compresses best is not refused.
    shape = (100, 100, 100)
    zeros = save(tmp_path / "zeros.nii.gz", np.zeros(shape, np.int16))
    assert volume_file.read_mr(zeros).values.shape == shape


@pytest.mark.parametrize("cut", [4, 30, 100])
def test_a_truncated_compressed_file_is_refused(tmp_path, cut):
    path = save(tmp_path / "ct.nii.gz", voxels_of())
    os.truncate(path, path.stat().st_size - cut)  # 4: in the checksum's length
    with pytest.raises(DataError, match=r"ct.nii.gz cannot be read .*: restore or remove it"):
        volume_file.read_ct(path)


def test_a_changed_byte_in_a_compressed_file_is_refused(tmp_path):
    content = save(tmp_path / "ct.nii", voxels_of()).read_bytes()
    packed = bytearray(gzip.compress(content, compresslevel=0))
    packed[-20] ^= 1
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="CRC"):
        volume_file.read_ct(path)


def with_value(value, dtype=np.float32):
    def spoil(path):
        voxels = np.zeros(SHAPE, dtype)
        voxels[MARK] = value
        save(path, voxels)

    return spoil


@pytest.mark.parametrize(
    ("read", "spoil", "word"),
    [
        (volume_file.read_ct, with_value(np.nan), "not numbers"),
        (volume_file.read_ct, with_value(-np.inf), "not numbers"),
        (volume_file.read_ct, with_value(32768), "save it as int16"),
        (volume_file.read_ct, with_value(-32769, np.int32), "save it as int16"),
        (volume_file.read_ct, truncated, "no 420 bytes"),
        (volume_file.read_labels, with_value(0.5), "integers in [0, 255]"),
        (volume_file.read_labels, with_value(np.nan), "integers in [0, 255]"),
        (volume_file.read_labels, with_value(256), "integers in [0, 255]"),
        (volume_file.read_labels, with_value(-1, np.int8), "integers in [0, 255]"),
    ],
)
def test_refuses_voxels(tmp_path, read, spoil, word):
    path = tmp_path / "volume-0.nii"
    spoil(path)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")
    assert word in text and "\n" not in text


# Image and labels.


STRAIGHT = axes_affine((0, 1, 2), (1, 1, 1))


def changed(row, column, value):
    affine = STRAIGHT.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "shape", "word"),
    [
        (STRAIGHT, (5, 6, 8), "its shape is (5, 6, 8), not (5, 6, 7)"),
        (
            changed(0, 0, -0.7),
            SHAPE,
            "not -31.5, 12.25, 700 mm (in the order RAS of its axes, which are stored as LAS)",
        ),
        (changed(2, 2, 3), SHAPE, "its spacing is 0.7, 1.1, 3 mm, not 0.7, 1.1, 2.5 mm"),
        (changed(2, 3, 701), SHAPE, "its origin is -31.5, 12.25, 701 mm, not -31.5, 12.25, 700 mm"),
        (rotated(3) @ np.diag([-1, -1, 1, 1]), SHAPE, "its affine is"),
    ],
)
def test_labels_must_lie_on_the_voxels_of_their_image(tmp_path, affine, shape, word):
    image = save(tmp_path / "image.nii", voxels_of(), STRAIGHT)
    labels = save(tmp_path / "labels.nii", voxels_of(shape=shape), affine)
    one, other = (volume_file.read_geometry(path) for path in (image, labels))
    one.check_same_grid(image, one, image)
    with pytest.raises(DataError) as caught:
        one.check_same_grid(image, other, labels)
    assert str(image) in str(caught.value) and f"{labels} is not" in str(caught.value)
    assert word in str(caught.value)


def test_headers_may_differ_by_their_rounding(tmp_path):
    affine = rotated(7)
    image = save(tmp_path / "image.nii", voxels_of(), affine, qform_code=0)
    labels = save(tmp_path / "labels.nii", voxels_of(), affine, sform_code=0)  # a quaternion
    one, other = (volume_file.read_geometry(path) for path in (image, labels))
    assert not np.array_equal(one.affine, other.affine)
    one.check_same_grid(image, other, labels)
