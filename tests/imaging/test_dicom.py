"""Reading DICOM series: made-up ones, written byte by byte, and a published one."""

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.formats.dicom import read_files, read_labels, read_series
from jax_pix2pix.imaging.volume_file import write_mask

SHAPE = (4, 5, 6)
SPACING_MM = (2.5, 0.7, 0.8)
ORIGIN = np.array([-120.5, -80.25, 300.0])
STEP = np.array([0, 0, SPACING_MM[0]])
STRAIGHT = np.eye(3)  # columns: where columns, rows and slices run to; left, back and head
SERIES = "1.2.826.0.1.3680043.2.1125.7"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def element(tag, kind, value):
    if isinstance(value, str):
        value = value.encode()
    value += (b"\0" if kind in ("UI", "OW") else b" ") * (len(value) % 2)
    length = struct.pack("<2xI" if kind == "OW" else "<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode() + length + value


def write_slice(path, pixels, position, direction=STRAIGHT, slope=1, inter=0, **changes):
    """A CT slice as the standard has it, uncompressed; `changes` are of elements, None drops one.

    Args:
        pixels: int16 [rows, columns], as they are stored.
        position: of the first pixel, in mm to the left, back and head.
        direction: [3, 3], the first two columns of which are the file's.
    """

    def numbers(values):
        return "\\".join(f"{value:.9g}" for value in values)

    def short(value):
        return struct.pack("<H", value)

    elements = {
        "image_type": (0x00080008, "CS", None),
        "class_uid": (0x00080016, "UI", CT_IMAGE),
        "uid": (0x00080018, "UI", f"{SERIES}.{zlib.crc32(path.name.encode())}"),
        "modality": (0x00080060, "CS", "CT"),
        "description": (0x0008103E, "LO", None),
        "study": (0x0020000D, "UI", f"{SERIES}.1"),
        "series": (0x0020000E, "UI", SERIES),
        "acquisition": (0x00200012, "IS", None),
        "position": (0x00200032, "DS", numbers(position)),
        "orientation": (0x00200037, "DS", numbers(direction[:, :2].T.ravel())),
        "time": (0x00200100, "IS", None),
        "samples": (0x00280002, "US", short(1)),
        "photometric": (0x00280004, "CS", "MONOCHROME2"),
        "frames": (0x00280008, "IS", None),
        "rows": (0x00280010, "US", short(pixels.shape[0])),
        "columns": (0x00280011, "US", short(pixels.shape[1])),
        "spacing": (0x00280030, "DS", numbers(SPACING_MM[1:])),
        "allocated": (0x00280100, "US", short(16)),
        "stored": (0x00280101, "US", short(16)),
        "high_bit": (0x00280102, "US", short(15)),
        "signed": (0x00280103, "US", short(1)),
        "padding": (0x00280120, "US", None),
        "padding_limit": (0x00280121, "US", None),
        "intercept": (0x00281052, "DS", f"{inter}"),
        "factor": (0x00281053, "DS", f"{slope}"),
        "stored_pixels": (0x7FE00010, "OW", pixels.astype("<i2").tobytes()),
    }
    for name, value in changes.items():
        elements[name] = (*elements[name][:2], value)
    meta = b"".join(
        element(tag, "UI", value)
        for tag, value in (
            (0x00020002, CT_IMAGE),
            (0x00020003, f"{SERIES}.2"),
            (0x00020010, EXPLICIT_LITTLE_ENDIAN),
        )
    )
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    body = b"".join(element(*each) for each in elements.values() if each[2] is not None)
    path.write_bytes(bytes(128) + b"DICM" + meta + body)


def write_series(folder, values, direction=STRAIGHT, **changes):
    """A file a slice, named in no order. Returns the folder."""
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(values):
        position = ORIGIN + index * SPACING_MM[0] * direction[:, 2]
        write_slice(slice_path(folder, index), pixels, position, direction, **changes)
    return folder


def slice_path(folder, index):
    return folder / f"{7 * index % 11}.dcm"


def values_of(seed=0):
    return np.random.default_rng(seed).integers(-1024, 3072, SHAPE).astype(np.int16)


def test_slices_are_sorted_and_have_their_place(tmp_path):
    values = values_of()
    folder = write_series(tmp_path / "series", values)
    (folder / "notes.txt").write_text("no slice")
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.values, values, strict=True)
    assert volume.spacing_mm == pytest.approx(SPACING_MM)
    affine = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1])
    affine[:3, 3] = ORIGIN * [-1, -1, 1]
    np.testing.assert_allclose(volume.geometry.affine, affine, rtol=1e-6)


def axes(*columns):
    return np.array(columns, float).T


@pytest.mark.parametrize(
    "direction",
    [
        axes((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        axes((-1, 0, 0), (0, -1, 0), (0, 0, 1)),  # prone
        axes((-1, 0, 0), (0, 1, 0), (0, 0, -1)),  # feet first
        axes((1, 0, 0), (0, 0, -1), (0, 1, 0)),  # coronal
        axes((0, 1, 0), (0, 0, -1), (-1, 0, 0)),  # sagittal
        axes((1, 0, 0), (0, 0.8, 0.6), (0, -0.6, 0.8)),  # oblique
    ],
    ids=["supine", "prone", "feet_first", "coronal", "sagittal", "oblique"],
)
def test_any_direction_becomes_the_same_pictures(tmp_path, direction):
    folder = write_series(tmp_path / "series", values_of(), direction)
    volume = read_series(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    witness = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(witness))
    np.testing.assert_allclose(volume.spacing_mm, witness.GetSpacing()[::-1], rtol=1e-6)
    # A mask of it lies where the series does.
    mask = (volume.values == volume.values.max()).astype(np.uint8)
    write_mask(tmp_path / "mask.nii.gz", mask, volume)
    written = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    places = []
    for one in (image == int(volume.values.max()), written):
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(one)
        places.append(shape.GetCentroid(1))
    np.testing.assert_allclose(*places, atol=1e-4)


@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (0.5, -1000.25), (-2, 7)])
def test_hounsfield_units_are_scaled_and_rounded_once(tmp_path, slope, inter):
    values = np.rint((values_of().clip(-1000, 1000) - inter) / slope).astype(np.int16)
    volume = read_series(write_series(tmp_path / "series", values, slope=slope, inter=inter))
    np.testing.assert_array_equal(volume.values, np.rint(values * float(slope) + inter))
    assert volume.values.dtype == np.int16


def test_hounsfield_units_are_not_inverted(tmp_path):
    """MONOCHROME1 asks viewers to show air as white; values stay what they are."""
    values = values_of()
    volume = read_series(write_series(tmp_path / "series", values, photometric="MONOCHROME1"))
    np.testing.assert_array_equal(volume.values, values)


@pytest.mark.parametrize(
    ("signed", "padding", "limit"),
    [
        (1, -2000, None),
        (1, 63536, None),
        (0, 63536, None),
        (0, -2000, None),
        (1, 30, 40),
        (1, -9, 9),
    ],
)
def test_padding_is_air(tmp_path, signed, padding, limit):
    """The value may be stated in either signedness, as a range, and be one that tissue has."""
    values = values_of().clip(-1000).astype(np.int32) + 1024
    expected = values - 1024
    expected[:, 0], expected[:, 1:, 0] = -1024, -1024
    values[:, 0], values[:, 1:, 0] = padding if limit is None else limit, padding
    values[2, 2, 3] = 35 if limit == 40 else 5  # alone within the body
    expected[2, 2, 3] = values[2, 2, 3] - 1024
    written = {"padding": padding, "padding_limit": limit}
    changes = {name: struct.pack("<H", x % 65536) for name, x in written.items() if x is not None}
    changes["signed"] = struct.pack("<H", signed)
    folder = write_series(tmp_path / "series", values, inter=-1024, **changes)
    np.testing.assert_array_equal(read_series(folder).values, expected)


def test_one_of_several_series_is_chosen(tmp_path):
    """Whatever else lies there is passed over then, such as a report without pixels."""
    folder = write_series(tmp_path / "export", values_of(), description="Thorax 1.0 \xfc")
    for index, pixels in enumerate(values_of(1)):
        place = ORIGIN + index * STEP
        write_slice(
            folder / f"b{index}.dcm", pixels, place, series=f"{SERIES}.9", description="MIP"
        )
    report = {"modality": "SR", "stored_pixels": None, "description": None}
    write_slice(folder / "sr.dcm", values_of()[0], ORIGIN, series=f"{SERIES}.10", **report)
    with pytest.raises(DataError) as caught:
        read_series(folder)
    assert str(caught.value) == (
        f"{folder} holds 3 DICOM volumes: {SERIES} (Thorax 1.0 \xfc, CT, 4 slices), {SERIES}.10 "
        f"(SR, 1 slices), {SERIES}.9 (MIP, CT, 4 slices): choose one by --series=UID, as it is "
        "listed"
    )
    with pytest.raises(DataError, match=r"volumes: .*: leave the slices of one in the folder$"):
        read_labels(folder)  # of masks that are compared, no user can name a series
    for series, seed in ((SERIES, 0), (f"{SERIES}.9", 1)):
        volume, paths = read_files(folder, series)
        np.testing.assert_array_equal(volume.values, values_of(seed))
        names = [f"b{index}.dcm" if seed else slice_path(folder, index).name for index in range(4)]
        assert [path.name for path in paths] == names
    with pytest.raises(DataError, match=r"holds no DICOM series 1\.2, but 3 DICOM volumes"):
        read_series(folder, "1.2")


HALF = STEP / 2


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"acquisition": "1"}, {"acquisition": "2"}], ["acquisition=1", "acquisition=2"]),
        ([{"time": "1"}, {"time": "2"}], ["time=1", "time=2"]),
        (
            [{"image_type": "ORIGINAL\\PRIMARY"}, {"image_type": "DERIVED\\MPR"}],
            ["type=ORIGINAL/PRIMARY", "type=DERIVED/MPR"],
        ),
    ],
    ids=["acquisitions", "times", "types"],
)
@pytest.mark.parametrize("shift", [HALF, 0 * HALF], ids=["half a step", "one place"])
def test_slices_between_those_of_another_acquisition_are_two_volumes(
    tmp_path, shift, changes, names
):
    folder = tmp_path / "series"
    folder.mkdir()
    for number, change in enumerate(changes):
        for index, pixels in enumerate(values_of(number)):
            place = ORIGIN + index * STEP + number * shift
            write_slice(folder / f"{number}{index}.dcm", pixels, place, **change)
    with pytest.raises(DataError) as caught:
        read_series(folder)
    listed = ", ".join(f"{SERIES}/{name} (CT, 4 slices)" for name in names)
    assert f"holds 2 DICOM volumes: {listed}: choose one by" in str(caught.value)
    for number, name in enumerate(names):
        volume = read_series(folder, f"{SERIES}/{name}")
        np.testing.assert_array_equal(volume.values, values_of(number))
        assert volume.spacing_mm == pytest.approx(SPACING_MM)
        place = (ORIGIN + number * shift) * [-1, -1, 1]
        np.testing.assert_allclose(volume.geometry.affine[:3, 3], place)


@pytest.mark.parametrize("groups", [(1, 1, 2, 2), (1, 2, 3, 4), (1, 2, 1, 1)], ids=str)
def test_acquisitions_that_follow_each_other_are_one_volume(tmp_path, groups):
    """As of a scanner that moves on step by step; nor does a single slice make a volume."""
    folder = write_series(tmp_path / "series", values_of())
    for index, group in enumerate(groups):
        place = ORIGIN + index * STEP
        write_slice(slice_path(folder, index), values_of()[index], place, acquisition=f"{group}")
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.values, values_of())


def test_a_spacing_that_differs_by_rounding_is_one(tmp_path):
    folder = write_series(tmp_path / "series", values_of(), spacing="0.703125\\0.703125")
    place = ORIGIN + STEP
    write_slice(slice_path(folder, 1), values_of()[1], place, spacing="0.70312\\0.703")
    volume = read_series(folder)
    assert volume.spacing_mm == pytest.approx((2.5, 0.703125, 0.703125))


def test_the_class_of_a_ct_says_its_modality(tmp_path):
    folder = write_series(tmp_path / "series", values_of(), modality=None)
    np.testing.assert_array_equal(read_series(folder).values, values_of())


# What is refused: a good series, spoilt.


def one_slice_with(**changes):
    def spoil(folder):
        position = ORIGIN + STEP
        pixels = changes.pop("values", values_of()[1])
        write_slice(slice_path(folder, 1), pixels, position, **changes)
        return slice_path(folder, 1)

    return spoil


def no_files(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("no slice")
    return folder


def two_series(folder):
    write_slice(folder / "other.dcm", values_of()[0], ORIGIN, series=f"{SERIES}.9")
    return f"{folder} holds 2 DICOM volumes: {SERIES} (CT, 4 slices), {SERIES}.9 (CT, 1 slices)"


def missing_slice(folder):
    slice_path(folder, 2).unlink()
    return f"{slice_path(folder, 1)} and {slice_path(folder, 3)} are 5 mm apart"


def slice_twice(folder):
    write_slice(folder / "again.dcm", values_of()[1], ORIGIN + STEP)
    return "again.dcm"


def all_at_one_place(folder):
    for index in range(len(values_of())):
        write_slice(slice_path(folder, index), values_of()[index], ORIGIN)
    return "are 0 mm apart"


def truncated_last_slice(folder):
    path = slice_path(folder, 3)
    path.write_bytes(path.read_bytes()[:-10])
    return path


def one_slice_only(folder):
    for index in (0, 1, 2):
        slice_path(folder, index).unlink()
    return f"{slice_path(folder, 3)} is the only slice"


def tilted_gantry(folder):
    for index, pixels in enumerate(values_of()):
        place = ORIGIN + index * np.array([0, 0.5, SPACING_MM[0]])
        write_slice(slice_path(folder, index), pixels, place)
    return f"{folder} was scanned with a tilted gantry"


def not_there(folder):
    return f"{folder.rename(folder.with_name('moved')).with_name('series')} holds no DICOM series"


TURNED = axes((1, 0, 0), (0, 0.8, 0.6), (0, -0.6, 0.8))
SPOILT = {
    "no files": (no_files, "holds no DICOM series"),
    "no folder": (not_there, "give the folder"),
    "two series": (two_series, "choose one by --series=UID"),
    "missing slice": (missing_slice, "the others 2.5 mm: a slice is missing"),
    "slice twice": (slice_twice, "0 mm apart"),
    "all at one place": (all_at_one_place, "the others 0 mm"),
    "truncated": (truncated_last_slice, "cannot be read as a DICOM slice"),
    "one slice": (one_slice_only, "two or more"),
    "tilted gantry": (tilted_gantry, "sheared"),
    "another direction": (one_slice_with(direction=TURNED), "not parallel"),
    "another size": (one_slice_with(values=values_of()[1, :-1]), "(6, 4) pixels"),
    "another spacing": (one_slice_with(spacing="1\\1"), "(1.0, 1.0) mm"),
    "another modality": (one_slice_with(modality="MR"), "is not a CT slice"),
    "many frames": (one_slice_with(frames="2"), "one file a slice"),
    "no intercept": (one_slice_with(intercept=None), "no rescale slope and intercept"),
    "no slope": (one_slice_with(factor="none"), "no rescale slope and intercept"),
    "no HU": (one_slice_with(slope=100), "which is not a CT's"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_refuses(tmp_path, case, capfd):
    folder = write_series(tmp_path / "series", values_of())
    spoil, word = SPOILT[case]
    name = spoil(folder)
    with pytest.raises(DataError) as caught:
        read_series(folder)
    assert str(name) in str(caught.value)
    text = str(caught.value).replace(str(folder), "")  # which holds the case's name
    assert word in text and "\n" not in text
    assert not "".join(capfd.readouterr())
