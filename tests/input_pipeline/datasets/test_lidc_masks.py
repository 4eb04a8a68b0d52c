"""Preparation of lidc_masks: what it refuses, what it keeps, and what it writes."""

import fcntl
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from input_pipeline import prepare as prepare_module
from input_pipeline.datasets.lidc_masks import lidc_masks_dataset_builder as lidc_masks
from input_pipeline.preparation import builder
from input_pipeline.prepare import prepare
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.pixel_prints import pixel_print
from tests import commands
from tests.input_pipeline.conftest import OPTIONS, read_split, write_slice

FLAGS = [
    "--config=configs/lidc_mask2ct.py",
    "--config.data.image_size=16",
    "--config.data.validation_fraction=0.3",
]
# Shards of 2 slices, and 0.1 s per slice.
SLOW = """
import sys, time
from input_pipeline import prepare
from input_pipeline.preparation import builder
from input_pipeline.datasets.lidc_masks import lidc_masks_dataset_builder as lidc_masks
builder.SHARD_SIZE = 2
read = lidc_masks.read_grey_png
def slow(path):
    time.sleep(0.1)
    return read(path)
lidc_masks.read_grey_png = slow
options = dict(stored_size=16, mask_resize="nearest", validation_fraction=0.3)
prepare.prepare("lidc_masks", sys.argv[1], sys.argv[2], **options)
"""


def run(source, data_dir, code=0):
    """Runs launch.prepare. -> (stdout, stderr)."""
    flags = [*FLAGS, f"--source={source}", f"--config.data.data_dir={data_dir}"]
    return commands.run("launch.prepare", *flags, code=code)


def refusal(source, data_dir, **options):
    """The one-line message with which prepare refuses."""
    with pytest.raises(DataError) as caught:
        prepare("lidc_masks", source, data_dir, **OPTIONS | options)
    assert "\n" not in str(caught.value)
    assert not list(data_dir.rglob("*.array_record*"))
    return str(caught.value)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# Records.


@pytest.mark.parametrize("mask_resize", ["nearest", "bilinear"])
def test_records_hold_what_the_files_hold(source, tmp_path, mask_resize):
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS | {"mask_resize": mask_resize})
    seen = []
    for split in ("train", "validation", "test"):
        for record in read_split(directory, split):
            png = source / record["file_name"]
            assert png.name == f"{record['patient']}_slice_{record['slice_index']:04d}.png"
            assert png.parent.name == record["class"]
            (npy,) = png.parent.glob(f"{record['patient']}_*_mask_{record['slice_index']:04d}.npy")
            ct = Image.open(png).resize((16, 16), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(record["image"][..., 0], np.asarray(ct))
            how = getattr(Image.Resampling, mask_resize.upper())
            mask = Image.fromarray(np.load(npy) * np.uint8(127)).resize((16, 16), how)
            np.testing.assert_array_equal(record["mask"][..., 0], np.asarray(mask))
            values = set(np.unique(record["mask"]))
            assert values <= {0, 127, 254} if mask_resize == "nearest" else len(values) > 3
            assert record["image"].dtype == record["mask"].dtype == np.uint8
            seen.append(record["file_name"])
    assert sorted(seen) == sorted(str(p.relative_to(source)) for p in source.rglob("*.png"))


def test_summary_and_tables(source, tmp_path):
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    summary = json.loads((directory / "preparation.json").read_text())
    assert summary["splits"] == {
        "train": {"examples": 10, "patients": 2, "classes": {"clean": 6, "with_nodules": 4}},
        "validation": {"examples": 5, "patients": 1, "classes": {"clean": 3, "with_nodules": 2}},
        "test": {"examples": 3, "patients": 1, "classes": {"clean": 3}},
    }
    assert summary["notes"] == [
        'validation by patient, by sha256("lidc_masks" + patient)',
        "test from the source's own test",
    ]
    manifest = ["split,patient,file_name,examples,pixels"]
    for split in summary["splits"]:
        (table,) = directory.glob(f"lidc_masks-{split}.*.csv")
        records = read_split(directory, split)
        assert table.read_text().splitlines()[1:] == [
            f"{r['patient']},{r['slice_index']},{r['class']},{r['file_name']},0.0 0.0 0.0"
            for r in records
        ]
        manifest += [
            f"{split},{r['patient']},{r['file_name']},1,{pixel_print([r['image'][..., 0]])}"
            for r in records
        ]
    assert (directory / "manifest.csv").read_text().splitlines() == manifest


def test_combined_masks_win(source, tmp_path):
    write_slice(source, "test", "with_nodules", "LIDC-IDRI-0009", 8, mask="combined")
    write_slice(source, "test", "with_nodules", "LIDC-IDRI-0009", 8, mask="lung")
    record = read_split(prepare("lidc_masks", source, tmp_path, **OPTIONS), "test")[-1]
    assert record["slice_index"] == 8 and 254 in record["mask"]


def test_a_val_folder_is_the_validation_split(source, tmp_path):
    write_slice(source, "val", "clean", "LIDC-IDRI-0007", 1)
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    assert [record["patient"] for record in read_split(directory, "validation")] == [
        "LIDC-IDRI-0007"
    ]
    assert len(read_split(directory, "train")) == 15


def test_one_training_patient_is_warned_of(source, tmp_path, capsys):
    for path in [*source.glob("train/*/LIDC-IDRI-000[23]*")]:
        path.unlink()
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    assert "no evidence of generalisation" in capsys.readouterr().out
    assert [record["slice_index"] for record in read_split(directory, "validation")] == [1, 2]


def test_other_mask_values_and_png_masks(source, tmp_path):
    for npy in source.rglob("*.npy"):
        Image.fromarray(np.load(npy) * np.uint8(100)).save(npy.with_suffix(".png"))
        npy.unlink()
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS, mask_values=(0, 100, 200))
    assert set(np.unique([r["mask"] for r in read_split(directory, "train")])) == {0, 127, 254}


def test_slices_that_are_not_square_are_stretched(source, tmp_path):
    ct, npy = write_slice(source, "test", "clean", "LIDC-IDRI-0009", 9)
    Image.fromarray(np.repeat(np.uint8([[0] * 40, [200] * 40]), 10, 0)).save(ct)
    np.save(npy, np.zeros((20, 40), np.uint8))
    record = read_split(prepare("lidc_masks", source, tmp_path, **OPTIONS), "test")[-1]
    assert (record["image"][:7] == 0).all() and (record["image"][9:] == 200).all()


def test_links_within_the_source_and_hidden_files_are_fine(source, tmp_path):
    ct, _ = write_slice(source, "test", "clean", "LIDC-IDRI-0009", 9)
    (source / "originals").mkdir()
    ct.rename(source / "originals" / "ct.png")
    ct.symlink_to(source / "originals" / "ct.png")
    (source / "test" / "clean" / "._LIDC-IDRI-0009_slice_0009.png").write_bytes(b"x")
    (source / "README").write_text("x")
    assert len(read_split(prepare("lidc_masks", source, tmp_path, **OPTIONS), "test")) == 4


# Refusals. Each case breaks a good source and returns what the message must hold.


def first(source, pattern="train/clean/*.png"):
    return min(source.glob(pattern))


def no_mask(source):
    first(source, "train/clean/*.npy").unlink()
    return first(source), "has no mask"


def no_slice(source):
    first(source).unlink()
    return first(source, "train/clean/*.npy"), "has no slice"


def truncated_png(source):
    os.truncate(first(source), first(source).stat().st_size // 2)
    return first(source), "cannot be read"


def truncated_npy(source):
    path = first(source, "train/clean/*.npy")
    os.truncate(path, path.stat().st_size - 1)
    return path, "cannot be read"


def text_as_png(source):
    first(source).write_text("not an image")
    return first(source), "cannot be read"


def empty_png(source):
    first(source).write_bytes(b"")
    return first(source), "is empty"


def empty_npy(source):
    first(source, "train/clean/*.npy").write_bytes(b"")
    return first(source, "train/clean/*.npy"), "is empty"


def pickled_npy(source):
    path = first(source, "train/clean/*.npy")
    path.write_bytes(pickle.dumps(np.zeros((24, 24), np.uint8)))
    return path, "cannot be read"


def other_size(source):
    path = first(source, "train/clean/*.npy")
    np.save(path, np.zeros((24, 23), np.uint8))
    return path, "must cover the same pixels"


def other_value(source):
    path = first(source, "train/clean/*.npy")
    np.save(path, np.full((24, 24), 3, np.uint8))
    return path, "the value 3"


def scaled_to_1(source):
    path = first(source)
    Image.fromarray(np.minimum(np.asarray(Image.open(path)), 1)).save(path)
    return path, "scaled to [0, 1] before it was saved"


def empty_train(source):
    shutil.rmtree(source / "train" / "clean")
    shutil.rmtree(source / "train" / "with_nodules")
    return source / "train", "holds no slices"


def empty_test(source):
    shutil.rmtree(source / "test" / "clean")
    (source / "test" / "clean").mkdir()
    return source / "test", "holds no slices"


def empty_val(source):
    (source / "val").mkdir()
    return source / "val", "holds no slices"


def patient_in_train_and_test(source):
    return write_slice(source, "test", "clean", "LIDC-IDRI-0002", 1)[0], "LIDC-IDRI-0002"


def patient_in_train_and_val(source):
    return write_slice(source, "val", "clean", "LIDC-IDRI-0002", 1)[0], "in train/ too"


def patient_in_train_and_test_in_another_case(source):
    write_slice(source, "test", "clean", "lidc-idri-0002", 4)
    return "test/clean/lidc-idri-0002_slice_0004.png", "in train/ too"


def slice_in_both_classes(source):
    write_slice(source, "train", "with_nodules", "LIDC-IDRI-0001", 1)
    return "LIDC-IDRI-0001_slice_0001.png", "are the same slice"


def patient_in_val_and_test(source):
    write_slice(source, "val", "clean", "LIDC-IDRI-0009", 1)
    return "patient LIDC-IDRI-0009", "in val/ too"


def misnamed(source):
    first(source).rename(first(source).with_name("slice1.png"))
    return source / "train" / "clean" / "slice1.png", "does not follow"


def slice_as_npy(source):
    path = source / "test" / "clean" / "LIDC-IDRI-0009_slice_0001.npy"
    np.save(path, np.zeros((24, 24), np.uint8))
    return path, "does not follow"


def same_slice_twice(source):
    path = source / "test" / "clean" / "LIDC-IDRI-0009_slice_4.png"
    shutil.copy(first(source), path)
    return path, "are the same"


def misnamed_class(source):
    (source / "train" / "clean").rename(source / "train" / "claen")
    return source / "train" / "claen", "with_nodules/, clean/"


def no_test(source):
    shutil.rmtree(source / "test")
    return source / "test", "is not a folder"


def no_source(source):
    shutil.rmtree(source)
    return source, "is not a folder"


def empty_source(source):
    shutil.rmtree(source)
    source.mkdir()
    return source, "is empty"


def file_link_outside(source):
    path = first(source)
    path.rename(source.parent / "ct.png")
    path.symlink_to(source.parent / "ct.png")
    return path, "outside"


def class_link_outside(source):
    (source / "test" / "clean").rename(source.parent / "clean")
    (source / "test" / "clean").symlink_to(source.parent / "clean")
    return source / "test" / "clean", "outside"


def split_link_outside(source):
    (source / "test").rename(source.parent / "test")
    (source / "test").symlink_to(source.parent / "test")
    return source / "test", "outside"


BY_NAME = [
    no_mask,
    no_slice,
    empty_png,
    empty_npy,
    empty_train,
    empty_test,
    empty_val,
    patient_in_train_and_test,
    patient_in_train_and_test_in_another_case,
    slice_in_both_classes,
    patient_in_train_and_val,
    patient_in_val_and_test,
    misnamed,
    slice_as_npy,
    same_slice_twice,
    misnamed_class,
    no_test,
    no_source,
    empty_source,
    file_link_outside,
    class_link_outside,
    split_link_outside,
]
BY_CONTENT = [
    truncated_png,
    truncated_npy,
    text_as_png,
    pickled_npy,
    other_size,
    other_value,
    scaled_to_1,
]


@pytest.mark.parametrize("spoil", [*BY_NAME, *BY_CONTENT], ids=lambda spoil: spoil.__name__)
def test_refuses(source, tmp_path, spoil, monkeypatch):
    path, word = spoil(source)
    if spoil in BY_NAME:  # nothing is decoded
        monkeypatch.setattr(lidc_masks, "read_grey_png", None)
    message = refusal(source, tmp_path / "data")
    assert str(path) in message and word in message


@pytest.mark.parametrize(
    "option",
    [
        {"stored_size": 0},
        {"mask_resize": "cubic"},
        {"mask_values": (0, 0, 1)},
        {"mask_values": (0, 256)},
        {"mask_values": (0,)},
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
    ],
)
def test_refuses_options(source, tmp_path, option):
    assert next(iter(option)) in refusal(source, tmp_path / "data", **option)


def test_refuses_an_unknown_data_set(source, tmp_path):
    with pytest.raises(DataError, match="lidc_masks"):
        prepare("imagenet", source, tmp_path)


@pytest.mark.parametrize("spoil", [no_mask, truncated_png])
def test_the_command_refuses_in_one_line(source, tmp_path, spoil):
    path, word = spoil(source)
    line = commands.error_line(run(source, tmp_path / "data", code=1)[1])
    assert str(path) in line and word in line


def test_the_command_says_what_it_found(source, tmp_path):
    data = tmp_path / "data"
    out, err = run(source, data)
    assert err == ""
    assert "train: 10 slices of 2 patients (6 clean, 4 with_nodules)" in out
    directory = data / "lidc_masks" / "16_nearest_0-1-2_a16dad85_0.3" / "2.0.0"
    assert out.splitlines()[-1] == f"prepared: {directory}"


def test_running_twice_changes_nothing(source, tmp_path, capsys):
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    before = contents(directory)
    assert prepare("lidc_masks", source, tmp_path, **OPTIONS) == directory
    assert capsys.readouterr().out.splitlines()[-1] == f"already prepared: {directory}"
    assert contents(directory) == before


@pytest.mark.slow
def test_a_full_disk_is_one_line(source, tmp_path):
    limit = (20_000, 20_000)  # bytes per file, as if the disk ended there
    result = subprocess.run(
        [
            *(sys.executable, "-m", "launch.prepare", *FLAGS, f"--source={source}"),
            *(f"--config.data.data_dir={tmp_path / 'data'}", "--config.data.image_size=256"),
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "cannot be written to" in line


def test_a_data_dir_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        prepare("lidc_masks", source, tmp_path / "file" / "data", **OPTIONS)


# Running again.


def change_size(source):
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(first(source))


def change_a_mask_of_the_same_size(source):
    path = first(source, "train/clean/*.npy")
    np.save(path, 1 - np.load(path))


def add(source):
    write_slice(source, "train", "clean", "LIDC-IDRI-0005", 1)


@pytest.mark.parametrize("change", [change_size, change_a_mask_of_the_same_size, add])
def test_a_changed_source_is_refused(source, tmp_path, change):
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    before = contents(directory)
    change(source)
    with pytest.raises(DataError, match="changed since: delete"):
        prepare("lidc_masks", source, tmp_path, **OPTIONS)
    assert contents(directory) == before


def test_other_options_lie_beside(source, tmp_path):
    directories = {
        prepare("lidc_masks", source, tmp_path, **OPTIONS | option)
        for option in ({}, {"mask_resize": "bilinear"}, {"validation_fraction": 0.6})
    }
    assert len(directories) == 3


def shards(data_dir):
    return {path.name: path.stat() for path in data_dir.rglob("lidc_masks-*-of-?????")}


def kill_midway(source, data_dir):
    """Kills a preparation after its third shard; returns the finished ones."""
    process = commands.python("-c", SLOW, str(source), str(data_dir))
    while len(shards(data_dir)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    commands.finish(process, -signal.SIGKILL)
    return shards(data_dir)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the slices that are decoded; shards have 2 slices."""
    names = []
    read = lidc_masks.read_grey_png
    monkeypatch.setattr(builder, "SHARD_SIZE", 2)
    monkeypatch.setattr(lidc_masks, "read_grey_png", lambda p: names.append(p.name) or read(p))
    return names


@pytest.mark.slow
def test_resumes_after_a_kill_with_the_same_bytes(source, tmp_path, decoded):
    finished = kill_midway(source, tmp_path / "killed")
    assert 3 <= len(finished) < 10
    resumed = prepare("lidc_masks", source, tmp_path / "killed", **OPTIONS)
    assert len(decoded) == 18 - 2 * len(finished)  # the slices of the other shards, of 18 in all
    after = shards(tmp_path / "killed")
    for name, stat in finished.items():
        assert (after[name].st_ino, after[name].st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    whole = prepare("lidc_masks", source, tmp_path / "whole", **OPTIONS)
    assert contents(resumed) == contents(whole)
    assert sorted(path.name for path in resumed.parent.iterdir()) == ["2.0.0", "lock"]


@pytest.mark.slow
def test_a_killed_preparation_of_another_source_is_not_resumed(source, tmp_path, decoded):
    kill_midway(source, tmp_path / "killed")
    change_a_mask_of_the_same_size(source)
    resumed = prepare("lidc_masks", source, tmp_path / "killed", **OPTIONS)
    assert len(decoded) == 18
    whole = prepare("lidc_masks", source, tmp_path / "whole", **OPTIONS)
    assert contents(resumed) == contents(whole)


def test_two_at_once(source, tmp_path):
    folder = tmp_path / "lidc_masks" / "16_nearest_0-1-2_a16dad85_0.3"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock, futures.ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another preparation is running" in refusal(source, tmp_path)
        waiting = pool.submit(prepare, "lidc_masks", source, tmp_path, wait=True, **OPTIONS)
        time.sleep(1)
        assert not waiting.done() and not (folder / "2.0.0").exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result() == folder / "2.0.0"


def test_nothing_reaches_for_the_network(source, tmp_path, monkeypatch):
    import socket

    def refuse(*args):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    directory = prepare("lidc_masks", source, tmp_path, **OPTIONS)
    assert len(read_split(directory, "test")) == 3
    assert prepare_module.prepared_directory("lidc_masks", tmp_path, **OPTIONS) == directory
