"""Preparation of mri_ct from pictures: every layout, in files that Pillow wrote."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.body_mask import body_mask
from tests.input_pipeline.conftest import read_split

SIZE = 16
SHAPE = (24, 32)
OPTIONS = {"stored_size": SIZE, "test_fraction": 0.3, "validation_fraction": 0.3}
SPLITS = ("train", "validation", "test")
LAYOUTS = {  # {split: (folder of sources, folder of CTs)}; one folder if side by side
    "trainA_trainB": {"train": ("trainA", "trainB")},
    "all_trainA": {split: (f"{split}A", f"{split}B") for split in ("train", "val", "test")},
    "A_B": {"train": ("A", "B")},
    "A_B_splits": {split: (f"A/{split}", f"B/{split}") for split in ("train", "val", "test")},
    "side_by_side": {"train": (".",)},
    "side_by_side_splits": {split: (split,) for split in ("train", "val", "test")},
}
OF_SPLITS = ("all_trainA", "A_B_splits", "side_by_side_splits")


def pair(stem, shape=SHAPE):
    """An MR of a bright body in a dark room, and its CT: uint8 [h, w]."""
    rng = np.random.default_rng([*stem.encode()])
    mr = rng.integers(0, 20, shape, np.uint8)
    mr[4:-4, 6:-4] = rng.integers(150, 256, (shape[0] - 8, shape[1] - 10))
    return mr, rng.integers(0, 256, shape, np.uint8)


def write(source, folders, stem, ending=".png"):
    """Writes a pair into its folder or folders. -> path of the source."""
    pixels = pair(stem)
    pixels = pixels if len(folders) == 2 else [np.hstack(pixels)]
    for folder, picture in zip(folders, pixels, strict=True):
        (source / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(source / folder / f"{stem}{ending}")
    return source / folders[0] / f"{stem}{ending}"


def write_layout(source, layout):
    """Two patients of three slices each in every split, or six patients in train."""
    for number, folders in enumerate(LAYOUTS[layout].values()):
        patients = range(2 * number, 2 * number + 2) if layout in OF_SPLITS else range(6)
        for patient in patients:
            for index in (9, 10, 11):
                write(source, folders, f"P{patient}_slice{index}")
    return source


@pytest.fixture
def source(tmp_path):
    return write_layout(tmp_path / "source", "trainA_trainB")


def records_of(directory):
    return {split: read_split(directory, split) for split in SPLITS}


def stem_of(record):
    return record["file_name"].rsplit("/", 1)[-1].rsplit(".", 1)[0]


def padded(plane, value):
    """Pads to a square: these planes are wider than they are high."""
    missing = plane.shape[1] - plane.shape[0]
    return np.pad(plane, ((missing // 2, missing - missing // 2), (0, 0)), constant_values=value)


def resized(plane, beyond):
    square = Image.fromarray(padded(plane, beyond).astype(np.float32))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def check(record, window=(-1024, 3071)):
    mr, ct = pair(stem_of(record))
    image, found, mask = (record[name][..., 0] for name in ("image", "ct", "mask"))
    np.testing.assert_array_equal(image, np.rint(resized(mr * 257.0, 0)))
    hu = window[0] + ct * ((window[1] - window[0]) / 255)
    assert np.abs(found - resized(hu, -1024)).max() <= 1.01  # rounded twice
    np.testing.assert_array_equal(mask, padded(body_mask(mr[None])[0], 0)[1::2, 1::2])
    assert mask.any() and not mask.all()
    assert (image.dtype, found.dtype, mask.dtype) == (np.uint16, np.int16, np.uint8)
    np.testing.assert_array_equal(record["spacing_mm"], 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_records_hold_what_the_pictures_hold(tmp_path, layout, capsys):
    source = write_layout(tmp_path / "source", layout)
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    patients = {split: {r["patient"] for r in found} for split, found in records.items()}
    assert set.union(*patients.values()) == {f"P{n}" for n in range(6)}
    assert sum(map(len, patients.values())) == 6  # each is in one split
    if layout in OF_SPLITS:
        expected = {"train": {"P0", "P1"}, "validation": {"P2", "P3"}, "test": {"P4", "P5"}}
        assert patients == expected
        assert "test from the source's own test" in capsys.readouterr().out
    else:
        assert [len(patients[split]) for split in SPLITS] == [3, 1, 2]
    for found in records.values():
        assert [r["slice_index"] for r in found] == [9, 10, 11] * (len(found) // 3)
        for record in found:
            check(record)
            assert (source / record["file_name"]).exists()


def test_splits_that_are_missing_are_held_out_of_train(tmp_path, capsys):
    source = write_layout(tmp_path / "source", "side_by_side_splits")
    for index in (0, 1):
        write(source, ["train"], f"Q_{index}")
    shutil.rmtree(source / "val")
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    assert {r["patient"] for r in records["test"]} == {"P4", "P5"}
    train, validation = ({r["patient"] for r in records[s]} for s in ("train", "validation"))
    assert train | validation == {"P0", "P1", "Q"} and len(validation) == 1
    assert not train & validation
    assert "validation by patient, by sha256" in capsys.readouterr().out


def test_one_patient_of_train_is_in_validation_and_it_says_so(tmp_path, capsys):
    source = tmp_path / "source"
    for split, patient in (("train", "a"), ("test", "b")):
        for index in range(5):
            write(source, [split], f"{patient}_{index}")
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    assert {r["patient"] for r in records["validation"] + records["train"]} == {"a"}
    assert "no evidence of generalisation" in capsys.readouterr().out


def test_the_source_may_be_on_the_right(tmp_path):
    source = tmp_path / "source"
    for number in range(3):
        mr, ct = pair(f"P{number}")
        source.mkdir(exist_ok=True)
        Image.fromarray(np.hstack([ct, mr])).save(source / f"P{number}.png")
    options = OPTIONS | {"source_side": "right"}
    for found in records_of(prepare("mri_ct", source, tmp_path / "data", **options)).values():
        for record in found:
            check(record)


def test_the_window_says_what_grey_means(source, tmp_path):
    options = OPTIONS | {"image_window_hu": (-200, 300)}
    for found in records_of(prepare("mri_ct", source, tmp_path / "data", **options)).values():
        for record in found:
            check(record, window=(-200, 300))


def test_jpegs_and_colours_become_grey(tmp_path):
    """The pictures of a pair may differ in format."""
    source = tmp_path / "source"
    for number in range(3):
        mr, ct = pair(f"{number}")
        for folder in "AB":
            (source / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mr).convert("RGB").save(source / f"A/{number}.png")
        Image.fromarray(ct).save(source / f"B/{number}.JPG", quality=100)
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    for record in itertools.chain(*records.values()):
        mr, _ = pair(stem_of(record))
        ct = np.asarray(Image.open(source / f"B/{stem_of(record)}.JPG")).astype(float)
        assert record["patient"] == stem_of(record) and record["slice_index"] == 0
        np.testing.assert_array_equal(record["image"][..., 0], np.rint(resized(mr * 257.0, 0)))
        hu = resized(-1024 + ct * 4095 / 255, -1024)
        assert np.abs(record["ct"][..., 0] - hu).max() <= 1.01


def test_the_pattern_names_the_patient(tmp_path):
    source = tmp_path / "source"
    for stem in ("x-17-3", "x-17-4", "y-17-3", "z-1-12345678901234567890"):
        write(source, ["A", "B"], stem)
    options = OPTIONS | {"patient_pattern": r"(\w).*"}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    found = {(r["patient"], r["slice_index"]) for r in itertools.chain(*records.values())}
    assert found == {("x", 3), ("x", 4), ("y", 3), ("z", 234567890)}


@pytest.mark.parametrize(
    ("stems", "pattern", "told"),
    [
        ([f"{n:04d}" for n in range(1, 11)], None, True),
        ([f"head{n}" for n in range(10)], None, True),
        ([f"{n:04d}" for n in range(1, 6)], None, False),  # five may well be five patients
        ([f"P{n // 2}_{n}" for n in range(10)], None, False),
        ([f"{n:04d}" for n in range(1, 11)], r"00(\d).*", False),
    ],
)
def test_pictures_that_each_are_a_patient_are_told_of(tmp_path, capsys, stems, pattern, told):
    for stem in stems:
        write(tmp_path / "source", ["A", "B"], stem)
    options = OPTIONS | ({"patient_pattern": pattern} if pattern else {})
    prepare("mri_ct", tmp_path / "source", tmp_path / "data", **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "patient of its own" in line]
    assert len(lines) == told
    for line in lines:
        assert "warning: each of 10 pictures" in line and "config.data.patient_pattern" in line


def test_equal_numbers_in_given_splits_are_told_of_and_no_leak(tmp_path, capsys):
    source = tmp_path / "source"
    for split, numbers in (("train", range(1, 9)), ("val", range(1, 3)), ("test", range(4, 7))):
        for number in numbers:
            write(source, [f"{split}A", f"{split}B"], f"{number}")
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    assert [len(records[split]) for split in SPLITS] == [8, 2, 3]
    out = capsys.readouterr().out
    assert "warning: 2 pictures of train and val have the same numbers" in out
    assert "warning: 3 pictures of train and test have the same numbers" in out
    assert out.count("have the same numbers") == 2


def test_a_pattern_with_a_slash_sees_the_path(tmp_path, capsys):
    source = tmp_path / "source"
    for folder in ("train", "val", "test"):
        for stem in ("x_1", "x_2"):
            write(source, [folder], stem)
    with pytest.raises(DataError, match=r"x_1\.png is of patient x, who is in train/ too"):
        prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    options = OPTIONS | {"patient_pattern": r"(\w+/\w+)_\d+"}
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **options))
    found = {split: {(r["patient"], r["slice_index"]) for r in records[split]} for split in SPLITS}
    for split, folder in zip(SPLITS, ("train", "val", "test"), strict=True):
        assert found[split] == {(f"{folder}/x", 1), (f"{folder}/x", 2)}
    out = capsys.readouterr().out
    assert "have the same numbers" not in out and "patient of its own" not in out
    # The files of the three folders are the same pictures.
    assert (
        "warning: 2 pictures are of two patients each, such as train/x_1.png of train/x in" in out
    )


def test_pictures_that_show_no_body_are_left_out(source, tmp_path, capsys):
    for folder in ("trainA", "trainB"):
        Image.fromarray(np.zeros(SHAPE, np.uint8)).save(source / folder / "P1_slice12.png")
    records = records_of(prepare("mri_ct", source, tmp_path / "data", **OPTIONS))
    assert sum(map(len, records.values())) == 18
    out = capsys.readouterr().out
    assert "1 pictures that show no body are left out" in out
    assert "(2 of a pair that shows no body: trainA/P1_slice12.png and 1 more)" in out


# Refusals. Each function spoils a good source and returns what the message must name.


def first(source, folder="trainA"):
    return source / folder / "P0_slice9.png"


def no_ct(source):
    first(source, "trainB").unlink()
    return first(source), "has no partner in trainB/"


def no_source(source):
    first(source).unlink()
    return first(source, "trainB"), "has no partner in trainA/"


def no_folder(source):
    (source / "testA").mkdir()
    shutil.copy(first(source), source / "testA")
    return source / "testB", "the layout needs it"


def two_of_a_name(source):
    Image.open(first(source)).save(source / "trainA" / "P0_slice9.jpg")
    return first(source), "have the same name"


def another_file(source):
    (source / "trainA" / "notes.txt").write_text("x")  # is passed over
    (source / "trainA" / "a.bmp").write_text("x")
    return source / "trainA" / "a.bmp", "is not called NAME.png"


def other_size(source):
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(first(source, "trainB"))
    return first(source, "trainB"), "31 x 24: they must cover"


def sixteen_bits(source):
    Image.fromarray(np.zeros(SHAPE, np.uint16)).save(first(source))
    return first(source), "8-bit grey or RGB"


def no_picture(source):
    first(source).write_text("png")
    return first(source), "cannot be read as a PNG"


def half_a_jpeg(source):
    for folder in ("trainA", "trainB"):
        first(source, folder).unlink()
        path = source / folder / "P0_slice9.jpg"
        Image.fromarray(pair("x")[0]).save(path)
        path.write_bytes(path.read_bytes()[:300])
    return path.parents[1] / "trainA" / path.name, "cannot be read as a JPEG"


def patient_in_two_splits(source):
    for folder in ("testA", "testB"):
        (source / folder).mkdir()
        shutil.copy(first(source, folder.replace("test", "train")), source / folder)
    return first(source, "testA"), "is in train/ too"


def all_blank(source):
    for path in source.rglob("*.png"):
        Image.fromarray(np.zeros(SHAPE, np.uint8)).save(path)
    return source, "no picture of train with a body"


def all_of_a_split_blank(source):
    for folder in ("testA", "testB"):
        (source / folder).mkdir()
        Image.fromarray(np.zeros(SHAPE, np.uint8)).save(source / folder / "Q_1.png")
    return source, "no picture of test with a body"


def odd_width(source):
    shutil.rmtree(source / "trainA")
    shutil.rmtree(source / "trainB")
    Image.fromarray(np.zeros((24, 63), np.uint8)).save(source / "P1.png")
    return source / "P1.png", "63 pixels wide"


def other_window(source):
    """Soft tissue is grey 130 in a window of [0, 80] HU, say, and 1064 HU in the default one."""
    for path in (source / "trainB").iterdir():
        grey = np.random.default_rng(0).integers(126, 135, SHAPE).astype(np.uint8)
        grey[:5] = 0
        Image.fromarray(grey).save(path)
    return source, "they look like HU + 1024", "config.data.image_window_hu"


def scaled_to_1(source):
    path = first(source, "trainB")
    Image.fromarray(np.eye(*SHAPE, dtype=np.uint8)).save(path)
    return path, "scaled to [0, 1] before it was saved"


def only_a_test(source):
    for side in "AB":
        (source / side).mkdir()
        (source / f"train{side}").rename(source / side / "test")
    return source, "no train"


SPOILT = [
    no_ct,
    no_source,
    no_folder,
    two_of_a_name,
    another_file,
    other_size,
    sixteen_bits,
    no_picture,
    half_a_jpeg,
    patient_in_two_splits,
    all_blank,
    all_of_a_split_blank,
    odd_width,
    other_window,
    scaled_to_1,
    only_a_test,
]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_refuses(source, tmp_path, spoil):
    path, *words = spoil(source)
    with pytest.raises(DataError) as caught:
        prepare("mri_ct", source, tmp_path / "data", **OPTIONS)
    assert str(path) in str(caught.value)
    text = str(caught.value).replace(str(path), "")
    assert all(word in text for word in words) and "\n" not in text
    assert not list((tmp_path / "data").rglob("*/dataset_info.json"))


def test_refuses_a_name_that_the_pattern_does_not_match(source, tmp_path):
    options = OPTIONS | {"patient_pattern": r"(CT\d+).*"}
    with pytest.raises(DataError, match=r"P0_slice\d+\.png names no patient"):
        prepare("mri_ct", source, tmp_path / "data", **options)
