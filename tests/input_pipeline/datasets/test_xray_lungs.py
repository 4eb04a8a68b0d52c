"""Preparation of xray_lungs: every layout as published, in files of a few pixels."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import liver, xray_lungs
from input_pipeline.datasets.xray_lungs.xray_lungs_dataset_builder import Config, find
from input_pipeline.prepare import options_of, prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.xrays import read_xray
from tests.imaging.test_dicom import write_slice
from tests.input_pipeline.conftest import read_split

SIZE = 16
STEMS = {
    "img_mask": [f"TS-CTA-000{patient}_view_00{view}" for patient in range(4) for view in (10, 20)],
    "montgomery": [f"MCUCXR_000{patient}_{patient % 2}" for patient in range(4)],
    "shenzhen": [f"CHNCXR_000{patient}_{patient % 2}" for patient in range(4)],
    "jsrt": [f"JPCLN00{patient}" for patient in range(3)],
}
MASK_FOLDERS = {
    "img_mask": ["mask"],
    "montgomery": ["ManualMask/leftMask", "ManualMask/rightMask"],
    "shenzhen": ["mask"],
    "jsrt": ["scratch/fold1/masks/left lung", "scratch/fold1/masks/right lung"],
}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".IMG":
        path.write_bytes(pixels.astype(">u2").tobytes())
    else:
        Image.fromarray(pixels).save(path)
    return path


def image_path(source, layout, stem):
    folder, ending = {"img_mask": ("img", "png"), "jsrt": ("All247images", "IMG")}.get(
        layout, ("CXR_png", "png")
    )
    return source / folder / f"{stem}.{ending}"


def mask_paths(source, layout, stem):
    ending = {"shenzhen": "_mask.png", "jsrt": ".gif"}.get(layout, ".png")
    return [source / folder / (stem + ending) for folder in MASK_FOLDERS[layout]]


def write_xray(source, layout, stem, shape=(20, 24)):
    """Writes one X-ray with its masks, in the layout."""
    rng = np.random.default_rng([*stem.encode()])
    low, high = (0, 4096) if layout == "jsrt" else (0, 256)
    pixels = rng.integers(low, high, (2048, 2048) if layout == "jsrt" else shape)
    save(image_path(source, layout, stem), pixels.astype(np.uint16 if high > 256 else np.uint8))
    shape = (1024, 1024) if layout == "jsrt" else shape
    middle = shape[1] // 2
    for side, path in enumerate(mask_paths(source, layout, stem)):
        lung = rng.integers(0, 2, shape, np.uint8) * np.uint8(255)
        if len(MASK_FOLDERS[layout]) == 2:  # one lung each
            lung[:, slice(0, middle) if side else slice(middle, None)] = 0
        save(path, lung)


def write_layout(source, layout):
    for stem in STEMS[layout]:
        write_xray(source, layout, stem)
    return source


@pytest.fixture
def source(tmp_path):
    return write_layout(tmp_path / "source", "img_mask")


def prepared(source, data_dir, **options):
    return prepare("xray_lungs", source, data_dir, stored_size=SIZE, **options)


def records_of(directory):
    """{stem: record} of all splits."""
    return {
        os.path.splitext(os.path.basename(record["file_name"]))[0]: record
        for split in ("train", "validation", "test")
        for record in read_split(directory, split)
    }


def refusal(source, data_dir, **options):
    """The one-line message with which prepare refuses."""
    with pytest.raises(DataError) as caught:
        prepared(source, data_dir, **options)
    assert "\n" not in str(caught.value)
    assert not list(data_dir.rglob("*.array_record*"))
    return str(caught.value)


def resized(pixels, how):
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), getattr(Image.Resampling, how)))


# Records.


@pytest.mark.parametrize("layout", STEMS)
def test_records_hold_what_the_files_hold(tmp_path, layout):
    source = write_layout(tmp_path / "source", layout)
    records = records_of(prepared(source, tmp_path / "data"))
    assert records.keys() == set(STEMS[layout])
    for stem, record in records.items():
        path = image_path(source, layout, stem)
        assert record["file_name"] == str(path.relative_to(source))
        assert record["class"] == layout
        if layout == "jsrt":
            raw = np.fromfile(path, ">u2").reshape(2048, 2048)
            pixels = np.round(255 * (1 - raw / 4095)).astype(np.uint8)
        else:
            pixels = np.asarray(Image.open(path))
        np.testing.assert_array_equal(record["image"], resized(pixels, "BILINEAR")[..., None])
        masks = [np.asarray(Image.open(p).convert("L")) for p in mask_paths(source, layout, stem)]
        union = np.maximum.reduce(masks) // 255
        np.testing.assert_array_equal(record["mask"], resized(union, "NEAREST")[..., None])
        assert set(np.unique(record["mask"])) == {0, 1}
        assert record["image"].dtype == record["mask"].dtype == np.uint8


@pytest.mark.parametrize(
    ("layout", "spacing"),
    [
        ("img_mask", (0, 0, 0)),
        ("shenzhen", (0, 0, 0)),
        ("montgomery", (0, 0.0875 * 20 / SIZE, 0.0875 * 24 / SIZE)),
        ("jsrt", (0, 0.175 * 2048 / SIZE, 0.175 * 2048 / SIZE)),
    ],
)
def test_spacing_is_that_of_the_stored_grid(tmp_path, layout, spacing):
    source = write_layout(tmp_path / "source", layout)
    for record in records_of(prepared(source, tmp_path / "data")).values():
        np.testing.assert_array_equal(record["spacing_mm"], np.float32(spacing))


@pytest.mark.parametrize(
    ("layout", "patients", "indices"),
    [
        ("img_mask", [f"TS-CTA-000{n}" for n in (0, 0, 1, 1, 2, 2, 3, 3)], [10, 20] * 4),
        ("montgomery", [f"MCUCXR_000{n}" for n in range(4)], [0] * 4),
        ("shenzhen", [f"CHNCXR_000{n}" for n in range(4)], [0] * 4),
        ("jsrt", [f"JPCLN00{n}" for n in range(3)], [0] * 3),
    ],
)
def test_patients_and_views_are_in_the_names(tmp_path, layout, patients, indices):
    source = write_layout(tmp_path / "source", layout)
    records = records_of(prepared(source, tmp_path / "data"))
    assert [records[stem]["patient"] for stem in STEMS[layout]] == patients
    assert [records[stem]["slice_index"] for stem in STEMS[layout]] == indices


def test_bone_is_white_in_jsrt(tmp_path):
    source = write_layout(tmp_path / "source", "jsrt")
    for stem, value in zip(STEMS["jsrt"], (0, 4095, 1000), strict=True):
        save(image_path(source, "jsrt", stem), np.full((2048, 2048), value))
    records = records_of(prepared(source, tmp_path / "data"))
    stored = [np.unique(records[stem]["image"]).tolist() for stem in STEMS["jsrt"]]
    assert stored == [[255], [0], [193]]  # 255 * 3095 / 4095 = 192.7


def test_flat_folders_of_jsrt(tmp_path):
    source = write_layout(tmp_path / "source", "jsrt")
    for path in (source / "All247images").iterdir():
        path.rename(source / path.name)
    for side in ("left", "right"):
        masks = source / "scratch" / "fold1" / "masks" / f"{side} lung"
        masks.rename(source / f"{side}_lung")
    moved = source / "left_lung" / "JPCLN001.gif"  # one mask of the other fold
    (source / "fold2" / "masks" / "left lung").mkdir(parents=True)
    moved.rename(source / "fold2" / "masks" / "left lung" / moved.name)
    (source / "CLNDAT_EN.txt").write_text("of the archive")
    assert records_of(prepared(source, tmp_path / "data")).keys() == set(STEMS["jsrt"])


COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_and_grey_in_colour(source, tmp_path, channels):
    grey = COLOURS[..., :1]
    save(image_path(source, "img_mask", STEMS["img_mask"][0]), COLOURS)
    save(image_path(source, "img_mask", STEMS["img_mask"][1]), np.repeat(grey, 3, -1))
    save(image_path(source, "img_mask", STEMS["img_mask"][2]), grey[..., 0])
    records = records_of(prepared(source, tmp_path / "data", source_channels=channels))
    stored = [records[stem]["image"] for stem in STEMS["img_mask"]]
    assert {image.shape for image in stored} == {(SIZE, SIZE, channels)}
    if channels == 3:
        np.testing.assert_array_equal(stored[0], resized(COLOURS, "BILINEAR"))
    else:
        luma = np.rint(COLOURS @ [0.299, 0.587, 0.114]).astype(np.uint8)
        difference = stored[0][..., 0].astype(int) - resized(luma, "BILINEAR")
        assert abs(difference).max() <= 1 and (difference == 0).mean() > 0.9
    for image in stored[1:3]:
        expected = np.repeat(resized(grey[..., 0], "BILINEAR")[..., None], channels, -1)
        np.testing.assert_array_equal(image, expected)


def test_masks_are_read_whatever_their_values_and_mode(source, tmp_path):
    lung = np.zeros((20, 24), bool)
    lung[5:15, :12] = True
    paths = [mask_paths(source, "img_mask", stem)[0] for stem in STEMS["img_mask"]]
    save(paths[0], lung)  # of 1 bit
    soft = np.where(lung, 255, 0).astype(np.uint8)
    soft[5] = np.where(lung[5], 128 + np.arange(24), 127 - np.arange(24))
    save(paths[1], soft)
    save(paths[2], np.repeat(lung[..., None] * np.uint8(255), 3, -1))
    palette = Image.fromarray(lung.astype(np.uint8))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(paths[3])
    records = records_of(prepared(source, tmp_path / "data"))
    expected = resized(lung.astype(np.uint8), "NEAREST")[..., None]
    for stem in STEMS["img_mask"][:4]:
        np.testing.assert_array_equal(records[stem]["mask"], expected)


def test_images_of_shenzhen_without_a_mask_are_left_out(tmp_path, capsys):
    source = write_layout(tmp_path / "source", "shenzhen")
    mask_paths(source, "shenzhen", STEMS["shenzhen"][0])[0].unlink()
    (source / "CXR_png" / "Thumbs.db").write_bytes(b"x")
    directory = prepared(source, tmp_path / "data")
    assert records_of(directory).keys() == set(STEMS["shenzhen"][1:])
    note = "1 images without a mask are left out"
    assert note in json.loads((directory / "preparation.json").read_text())["notes"]
    out = capsys.readouterr().out
    assert note in out and "(1 an image without a mask: " in out


def test_the_same_bytes_each_time(source, tmp_path):
    one, other = (prepared(source, tmp_path / name) for name in ("one", "other"))
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in other.iterdir())
    for name in files:
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_manifest_says_who_is_where(source, tmp_path):
    directory = prepared(source, tmp_path / "data")
    with (directory / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(STEMS["img_mask"])
    for split in ("train", "validation", "test"):
        assert [(row["patient"], row["file_name"]) for row in rows if row["split"] == split] == [
            (record["patient"], record["file_name"]) for record in read_split(directory, split)
        ]


# Splits.


def split_of(source, **options):
    """{patient: split}, by `find`; a patient in two splits fails."""
    placed = {}
    for split, items in find(source, Config(**options)).splits.items():
        for item in items:
            assert placed.setdefault(item.patient, split) == split
    return placed


def touch_xrays(source, patients):
    """Writes X-rays that cannot be decoded; `find` does not decode them."""
    for folder in ("img", "mask"):
        (source / folder).mkdir(parents=True, exist_ok=True)
        for patient in patients:
            for view in (1, 2):
                (source / folder / f"P{patient:03d}_view_{view}.png").write_bytes(b"x")


def test_a_fifth_of_the_patients_is_the_test(tmp_path):
    touch_xrays(tmp_path, range(50))
    placed = split_of(tmp_path)
    counts = {split: list(placed.values()).count(split) for split in set(placed.values())}
    assert counts == {"train": 36, "validation": 4, "test": 10}
    assert placed != split_of(tmp_path, test_fraction=0.4)


def test_patients_keep_their_order_when_others_join(tmp_path):
    touch_xrays(tmp_path, range(50))
    before = split_of(tmp_path)
    touch_xrays(tmp_path, range(50, 60))
    after = split_of(tmp_path)
    assert set(before) < set(after)
    for held_out in (["test"], ["test", "validation"]):
        # A split is a line through one order of all patients. It moves one way, over some old ones.
        old, new = ({p for p in before if placed[p] in held_out} for placed in (before, after))
        assert old <= new or new <= old
        assert len(old ^ new) <= 3


def test_the_patient_is_the_patterns_group(tmp_path):
    touch_xrays(tmp_path, range(30))
    assert set(split_of(tmp_path, patient_pattern=r"P(\d\d)")) == {"00", "01", "02"}


def test_names_as_the_nih_has_them(tmp_path, capsys):
    """Four patients of four pictures."""
    for patient in range(1, 5):
        for picture in range(4):
            write_xray(tmp_path / "source", "img_mask", f"0000000{patient}_00{picture}")
    directory = prepared(tmp_path / "source", tmp_path / "data")
    counts = json.loads((directory / "preparation.json").read_text())["splits"]
    assert [counts[split]["patients"] for split in ("train", "validation", "test")] == [2, 1, 1]
    assert "4 patients in 16 files, such as img/00000001_000.png -> 0000" in capsys.readouterr().out
    message = refusal(tmp_path / "source", tmp_path / "other", patient_pattern=r"(\w+)")
    assert "_000.png" in message and "--config.data.patient_pattern='" in message
    directory = prepared(tmp_path / "source", tmp_path / "other", patient_pattern="(.*)")
    counts = json.loads((directory / "preparation.json").read_text())["splits"]
    assert sum(split["patients"] for split in counts.values()) == 16


# Refusals. Each case breaks a good source and returns what the message must hold.


def no_layout(source):
    (source / "img").rename(source / "images")
    return source, "none of the known layouts"


def two_layouts(source):
    (source / "CXR_png").mkdir()
    return source, "img_mask and as shenzhen"


def three_layouts(source):
    save(source / "JPCLN001.IMG", np.zeros(1))
    (source / "CXR_png").mkdir()
    (source / "ManualMask").mkdir()
    return source, "img_mask and as montgomery and as shenzhen and as jsrt"


def no_xrays(source):
    for path in source.rglob("*.png"):
        path.unlink()
    return source, "holds no X-rays"


def no_mask(source):
    path, stem = first(source)
    mask_paths(source, "img_mask", stem)[0].unlink()
    return path, "has no mask"


def no_image(source):
    path, stem = first(source)
    path.unlink()
    return mask_paths(source, "img_mask", stem)[0], "has no image"


def empty_image(source):
    path, _ = first(source)
    path.write_bytes(b"")
    return path, "is empty"


def other_ending(source):
    path, _ = first(source)
    path.rename(path.with_suffix(".bmp"))
    return path.with_suffix(".bmp"), "not called NAME.png"


def ending_in_another_case(source):
    path, _ = first(source)
    shutil.copy(path, path.with_suffix(".PNG"))
    return path, "are the same"


def folder_among_images(source):
    (source / "img" / "more.png").mkdir()
    return source / "img" / "more.png", "is not a file"


def link_outside(source):
    path, _ = first(source)
    path.rename(source.parent / "xray.png")
    path.symlink_to(source.parent / "xray.png")
    return path, "outside"


def masks_outside(source):
    (source / "mask").rename(source.parent / "mask")
    (source / "mask").symlink_to(source.parent / "mask")
    return source / "mask", "outside"


def names_that_differ_in_case(source):
    write_xray(source, "img_mask", "ts-cta-0001_view_0030")
    return "ts-cta-0001", "differ in case only"


def two_images(source):
    for path in source.rglob("*.png"):
        if "0001" not in path.name:
            path.unlink()
    return f"{source} holds ", " X-rays with masks, and there are three splits"


def not_an_image(source):
    path, _ = first(source)
    path.write_text("not an image")
    return path, "cannot be read as a PNG"


def deep_mask(source):
    _, stem = first(source)
    path = mask_paths(source, "img_mask", stem)[0]
    save(path, np.zeros((20, 24), np.uint16))
    return path, "16-bit"


def other_mask_size(source):
    path, stem = first(source)
    save(mask_paths(source, "img_mask", stem)[0], np.zeros((20, 23), np.uint8))
    return path, f"{mask_paths(source, 'img_mask', stem)[0]} has (20, 23)"


def classes_as_mask(source):
    mask = mask_paths(source, "img_mask", first(source)[1])[0]
    save(mask, np.eye(20, 24, dtype=np.uint8) + 1)
    return mask, "holds the values 1, 2"


def coloured_mask(source):
    mask = mask_paths(source, "img_mask", first(source)[1])[0]
    save(mask, COLOURS)
    return mask, "not 8-bit grey"


def first(source):
    stem = STEMS["img_mask"][0]
    return image_path(source, "img_mask", stem), stem


BY_NAME = [
    no_layout, two_layouts, three_layouts, no_xrays, no_mask, no_image, empty_image, other_ending,
    ending_in_another_case, folder_among_images, link_outside, masks_outside,
    names_that_differ_in_case, two_images,
]  # fmt: skip
BY_CONTENT = [not_an_image, deep_mask, other_mask_size, classes_as_mask, coloured_mask]


@pytest.mark.parametrize("spoil", [*BY_NAME, *BY_CONTENT], ids=lambda spoil: spoil.__name__)
def test_refuses(source, tmp_path, spoil):
    path, word = spoil(source)
    if spoil in BY_NAME:  # nothing is decoded
        with pytest.raises(DataError):
            find(source, Config())
    message = refusal(source, tmp_path / "data")
    assert str(path) in message and word in message


@pytest.mark.parametrize(
    ("layout", "remove", "named", "word"),
    [
        ("montgomery", "ManualMask/leftMask/MCUCXR_0001_1.png", "CXR_png/MCU", "no left mask"),
        ("montgomery", "ManualMask/rightMask/MCUCXR_0001_1.png", "CXR_png/MCU", "no right mask"),
        ("montgomery", "CXR_png/MCUCXR_0001_1.png", "leftMask/MCUCXR_0001_1.png", "no image"),
        ("montgomery", "ManualMask/leftMask", "ManualMask/leftMask", "is not a folder"),
        ("shenzhen", "CXR_png/CHNCXR_0001_1.png", "mask/CHNCXR_0001_1_mask.png", "no image"),
        ("jsrt", "scratch/fold1/masks/right lung/JPCLN001.gif", "JPCLN001.IMG", "no right mask"),
        ("jsrt", "scratch", "JPCLN000.IMG", "no left mask"),
        ("jsrt", "All247images/JPCLN001.IMG", "left lung/JPCLN001.gif", "no image"),
    ],
)
def test_refuses_what_is_missing(tmp_path, layout, remove, named, word):
    source = write_layout(tmp_path / "source", layout)
    path = source / remove
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(source, tmp_path / "data")
    assert named in message and word in message


def test_refuses_a_mask_of_shenzhen_without_its_ending(tmp_path):
    source = write_layout(tmp_path / "source", "shenzhen")
    path = source / "mask" / "CHNCXR_0001_1.png"
    mask_paths(source, "shenzhen", path.stem)[0].rename(path)
    message = refusal(source, tmp_path / "data")
    assert str(path) in message and "NAME_mask.png" in message


def test_refuses_a_mask_in_both_folds(tmp_path):
    source = write_layout(tmp_path / "source", "jsrt")
    folds = [source / "scratch" / fold / "masks" / "left lung" for fold in ("fold1", "fold2")]
    shutil.copytree(*folds)
    message = refusal(source, tmp_path / "data")
    assert str(folds[1] / "JPCLN000.gif") in message and "are the same" in message


@pytest.mark.parametrize(
    ("name", "pixels", "word"),
    [
        ("All247images/JPCLN001.IMG", np.zeros((2048, 2047)), "8384512 bytes, not the 8388608"),
        ("All247images/JPCLN001.IMG", np.full((2048, 2048), 4096), "the value 4096"),
        (
            "scratch/fold1/masks/left lung/JPCLN001.gif",
            np.zeros((1024, 512), np.uint8),
            "(1024, 512): they must cover the same pixels",
        ),
    ],
)
def test_refuses_files_of_jsrt(tmp_path, name, pixels, word):
    source = write_layout(tmp_path / "source", "jsrt")
    save(source / name, pixels)
    message = refusal(source, tmp_path / "data")
    assert str(source / name) in message and word in message


@pytest.mark.parametrize(
    "option",
    [
        {"source_channels": 2},
        {"patient_pattern": "(P"},
        {"patient_pattern": "TS"},
        {"patient_pattern": "(Q)"},
        {"patient_pattern": "(Q?)"},
        {"test_fraction": 0.0},
        {"test_fraction": 1.0},
        {"validation_fraction": 1.5},
    ],
)
def test_refuses_options(source, tmp_path, option):
    assert next(iter(option)) in refusal(source, tmp_path / "data", **option)


def test_options_lie_beside(source, tmp_path):
    options = [
        {},
        {"source_channels": 3},
        {"patient_pattern": r"(.*)_view"},
        {"patient_pattern": r"(.*)_vie"},
        {"test_fraction": 0.3},
        {"validation_fraction": 0.3},
    ]
    directories = {prepared(source, tmp_path, **option) for option in options}
    assert len(directories) == len(options)
    assert all(path.is_relative_to(tmp_path / "xray_lungs") for path in directories)


@pytest.mark.parametrize("variant", ["", "as_published", "quickstart"])
def test_the_config_names_every_option(variant):
    """Two places define how a file's name gives the patient. They must agree."""
    options = options_of(xray_lungs.get_config(variant).data)
    assert Config(**options).options == options
    assert options["patient_pattern"] == Config().patient_pattern
    for variant in ("", "as_published", "tumour", "quickstart"):
        assert options_of(liver.get_config(variant).data)["split_by"] in ("volume", "slice")


def test_images_of_every_kind_are_used_and_the_rest_is_told(tmp_path, capfd):
    source = write_layout(tmp_path / "source", "img_mask")
    stems = STEMS["img_mask"]
    whole = read_xray(source / "img" / f"{stems[0]}.png", 1).pixels
    tags = Image.Exif()
    tags[0x0112] = 6
    for stem, ending in zip(stems, ("jpg", "tif", "PNG", "", "jpg"), strict=False):
        path = source / "img" / f"{stem}.png"
        pixels = read_xray(path, 1).pixels
        path.unlink()
        other = path.with_name(stem + f".{ending}" * bool(ending))
        mask = source / "mask" / f"{stem}.png"
        mask.rename(mask.with_name(f"{stem.lower()}.png"))
        if stem == stems[0]:  # the image lies on its side, its mask does not
            Image.fromarray(np.rot90(pixels)).save(other, exif=tags, quality=100)
        elif not ending:
            write_slice(other, pixels.astype(np.int16), (0, 0, 0), modality="CR")
        else:
            deep = pixels.astype(np.uint16) * 256 if ending == "tif" else pixels
            Image.fromarray(deep).save(other, format="png" if ending == "PNG" else None)
    (source / "img" / "README").write_text("x")
    (source / "notes.csv").write_text("x")
    directory = prepared(source, tmp_path / "data")
    found = {
        os.path.basename(record["file_name"]): record["image"][..., 0]
        for split in ("train", "validation", "test")
        for record in read_split(directory, split)
    }
    assert len(found) == len(stems)
    name = f"{stems[0]}.jpg"
    np.testing.assert_allclose(found[name], resized(whole, "BILINEAR"), atol=3)
    notes = json.loads((directory / "preparation.json").read_text())["notes"]
    for told in ("1 DICOM: by their window", "1 of 16 bits: by", "1 turned upright by"):
        assert any(note.startswith(told) for note in notes), told
    out = capfd.readouterr().out
    assert f"files of {source}: {2 * len(stems)} used, 2 passed over (2 a text or a table:" in out
    rows = list(csv.reader((directory / "files.csv").read_text().splitlines()))
    assert ["img/README", "passed over", "a text or a table"] in rows
    assert [f"img/{name}", "used", ""] in rows and len(rows) == 1 + 2 * len(stems) + 2
