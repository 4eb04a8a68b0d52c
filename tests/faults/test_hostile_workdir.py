"""Links, pipes and devices in a folder that others may have made lead nowhere."""

import contextlib
import functools
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jax_pix2pix
from configs import ct_pyramid_2d
from input_pipeline import prepare as preparation
from input_pipeline.preparation.tables import read_table
from input_pipeline.prepare import options_of, prepared_directory
from input_pipeline.prepared import SAMPLES, ensure_prepared
from jax_pix2pix.errors import ConfigError, DataError, WorkdirError
from jax_pix2pix.evaluation.evaluate import Evaluation
from jax_pix2pix.evaluation.report import writer
from jax_pix2pix.fit import _draw
from jax_pix2pix.inference.prediction import Prediction
from jax_pix2pix.logs import goodput, metrics_log, process_log, trackers
from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.logs.logbook import Logbook
from jax_pix2pix.logs.loss_curve import draw_loss_curve
from jax_pix2pix.losses.tensor_file import read_tensors
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.workdir_files import check_files, claim, read_config
from jax_pix2pix.runs.workdir_lock import locked
from jax_pix2pix.safety.safe_files import UnsafeFileError
from jax_pix2pix.train import train
from launch import ablation, scaling
from launch.benchmark import options
from launch.evaluate import evaluate
from launch.export_segmenter import export
from launch.predict import predict
from tests import commands
from tests.tiny import quickstart_data, tiny_config

PICTURE = Image.fromarray(np.zeros((4, 4), np.uint8))
LINES = [
    {"step": 1, "epoch": 1.0, "split": "train", "loss_G": 1.0, "loss_D": 1.0, "time": 1.0},
    {"step": 1, "epoch": 1.0, "split": "validation", "psnr": 1.0, "time": 1.0},
    {"step": 1, "epoch": 1.0, "split": "seconds", "seconds": {"step": 1.0}, "time": 1.0},
]


@pytest.fixture(autouse=True)
def no_waiting():
    """A pipe without an end fails the test instead of holding it up."""

    def late(*_):
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody else with a file, which stay as they are."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim").write_text("mine", encoding="utf-8")
    yield folder
    assert os.listdir(folder) == ["victim"]
    assert (folder / "victim").read_text("utf-8") == "mine"


@pytest.fixture
def workdir(tmp_path):
    workdir = tmp_path / "run"
    claim(str(workdir), tiny_config())
    lines = "".join(json.dumps(line) + "\n" for line in LINES)
    (workdir / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (workdir / "checkpoints").mkdir()
    return workdir


def plant(path, kind, outside):
    """Puts something hostile in the place of a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))  # names of sockets are short
    else:
        targets = {"link": outside / "victim", "folder": outside, "device": "/dev/zero"}
        path.symlink_to(targets.get(kind, outside / "new"))


# Opening a workdir

PLANTED = [
    ("config.json", "pipe"),
    ("config.json", "device"),
    ("config.json", "link"),
    ("preparation.json", "pipe"),
    ("metrics.jsonl", "pipe"),
    ("lock", "link"),
    ("lock", "new"),
    ("evaluation/test.csv", "link"),
    ("evaluation", "folder"),
    ("samples", "folder"),
    ("checkpoints", "folder"),
    ("checkpoints/8/state", "folder"),
    ("scale_0", "folder"),
    ("wandb", "folder"),
    ("evaluation/wandb/latest", "link"),
    ("A", "folder"),  # of an ablation
    ("anything", "socket"),
]
OPENERS = {
    "load": jax_pix2pix.load,
    "evaluate": lambda workdir: evaluate(workdir, None, None, {}, workdir),
    "predict": lambda workdir: predict(workdir, str(SAMPLES), f"{workdir}_results"),
    "export": lambda workdir: export(workdir, f"{workdir}.safetensors"),
    "train": lambda workdir: train(tiny_config(), workdir, dataset=None),
    "ablation": lambda workdir: ablation.ablate(
        ct_pyramid_2d.get_config(), workdir, ["A"], 2, 0, 0, ()
    ),
}


@pytest.mark.parametrize(
    ("opener", "name", "kind"),
    [
        *(("load", *planted) for planted in PLANTED),
        *((opener, "samples", "folder") for opener in OPENERS if opener != "load"),
    ],
)
def test_a_workdir_is_refused_before_it_is_read(workdir, outside, monkeypatch, opener, name, kind):
    monkeypatch.chdir(workdir.parent)
    plant(workdir / name, kind, outside)
    refusal = "is no regular file" if kind in ("pipe", "socket") else "is a link"
    with pytest.raises(UnsafeFileError, match=f"{workdir / name} {refusal}"):
        OPENERS[opener](str(workdir))


def test_links_that_weights_and_biases_makes_are_its_own(workdir, outside):
    for folder in (workdir / "wandb", workdir / "scale_1" / "wandb"):
        plant(folder / "latest-run", "folder", outside)
    check_files(str(workdir))
    (workdir.parent / "named").symlink_to(workdir)
    check_files(str(workdir.parent / "named"))  # by the user
    assert read_config(str(workdir.parent / "named")).seed == tiny_config().seed


def test_a_config_that_fills_the_memory_is_not_read(workdir):
    with open(workdir / "config.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnsafeFileError, match=r"config\.json is above the limit of \d+ bytes"):
        read_config(str(workdir))


def test_a_log_that_fills_the_memory_is_not_read(workdir):
    os.truncate(workdir / "metrics.jsonl", 2**40)
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl: line 4 is above the limit"):
        metrics_log.read_metrics(str(workdir))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["train", "evaluate", "predict", "goodput", "export_segmenter", "ablation"]
)
def test_a_command_says_so_in_a_line(workdir, outside, sample_data_dir, command):
    plant(workdir / "evaluation", "folder", outside)
    arguments = {
        "train": commands.tiny_training(workdir, sample_data_dir)[2:],
        "predict": [f"--input={SAMPLES}", f"--output={workdir.parent / 'out.d'}"],
        "export_segmenter": [f"--output={workdir.parent / 'out.safetensors'}"],
    }.get(command, [])
    if command in ("train", "ablation"):
        name = "lidc_mask2ct" if command == "train" else "ct_pyramid_2d"
        arguments = [f"--config=configs/{name}.py:quickstart", *arguments]
    _, err = commands.run(f"launch.{command}", f"--workdir={workdir}", *arguments, code=1)
    assert f"error: {workdir / 'evaluation'} is a link" in commands.error_line(err)
    assert not list(workdir.parent.glob("out.*"))


# Writing into a workdir that was changed since it was opened


def _log(workdir):
    log = Logbook(str(workdir), 0, 1, 1, Clock())
    log.scalars(1, "train", {"loss_G": 1.0})
    log.epoch(1, {"loss_G": 1.0})
    log.close()


def _message(workdir):
    handler = process_log._File(str(workdir), process_log.log_path(str(workdir), 0))
    handler.emit(logging.LogRecord("x", logging.INFO, "x", 1, "theirs \ud800", (), None))


def _hold(workdir):
    with locked(str(workdir)):
        pass


def _config(workdir):
    workdir_files._write_config(workdir, {"seed": 1})


def _evaluation(workdir):
    found = Evaluation("test", {"psnr": 1.0}, "", writer(PICTURE))
    found.save(os.path.join(workdir, "evaluation"), below=str(workdir))


def _table(workdir):
    row = dict.fromkeys(ablation.COLUMNS, 1) | {"row": "A", "terms": "all"}
    results = {"size": [4, 4, 4], "training_volumes": 1, "samples": 2}
    ablation.write_table(str(workdir), ct_pyramid_2d.get_config(), results, [row])


def _goodput(workdir):
    goodput.report(workdir, f"{workdir}/goodput.json", workdir)


class _Drawn(Logbook):
    """A logbook of nothing, for `_draw`."""

    def __init__(self):
        self._writers = []


# {name of a file: (what writes it, whether it takes the place of a link)}
WRITERS = {
    "metrics.jsonl": (_log, False),
    "training_log.txt": (_log, False),
    "tensorboard": (_log, False),
    "tracker_wandb.json": (lambda workdir: trackers._Record(workdir, "wandb", "p"), False),
    "lock": (_hold, False),
    "logs": (_message, None),  # a log that cannot be written ends no run
    "logs/process_0000.log": (_message, None),
    "config.json": (_config, True),
    "config.json.tmp": (_config, True),
    "config_changes.jsonl": (
        lambda workdir: workdir_files._record_changes(workdir, {"keep_last": (1, 2)}),
        False,
    ),
    "goodput.json": (_goodput, True),
    "goodput.json.tmp": (_goodput, True),
    "loss_curve.png": (functools.partial(draw_loss_curve, best_metric="psnr"), True),
    "loss_curve.png.tmp": (functools.partial(draw_loss_curve, best_metric="psnr"), True),
    "samples": (lambda workdir: _draw(workdir, _Drawn(), 1, 1, PICTURE), False),
    "samples/epoch_0001.png": (lambda workdir: _draw(workdir, _Drawn(), 1, 1, PICTURE), True),
    "evaluation": (_evaluation, False),
    "evaluation/test.json": (_evaluation, True),
    "evaluation/test.png": (_evaluation, True),
    "table.csv": (_table, True),
    "table.md": (_table, True),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_written_through_a_link(workdir, outside, name, dangling):
    write, replaced = WRITERS[name]
    folder = "." not in name and name != "lock"
    plant(workdir / name, "new" if dangling else "folder" if folder else "link", outside)
    with contextlib.ExitStack() as stack:
        if replaced is False:
            stack.enter_context(pytest.raises(UnsafeFileError, match=f"{workdir / name} is a link"))
        write(str(workdir))
    if replaced and not name.endswith(".tmp"):
        assert not (workdir / name).is_symlink() and (workdir / name).stat().st_size


@pytest.mark.parametrize("name", ["metrics.jsonl", "tracker_wandb.json", "lock"])
def test_no_pipe_is_waited_for(workdir, outside, name):
    plant(workdir / name, "pipe", outside)
    with pytest.raises(UnsafeFileError, match=f"{workdir / name} is no regular file"):
        WRITERS[name][0](str(workdir))


def test_a_message_does_not_bring_a_removed_workdir_back(workdir):
    _message(workdir)
    shutil.rmtree(workdir)
    _message(workdir)
    assert not workdir.exists()


def test_a_holder_that_fills_the_memory_is_not_read(workdir):
    with locked(str(workdir)):
        os.truncate(workdir / "lock", 2**40)
        with pytest.raises(WorkdirError, match="in use by another process"):
            _hold(workdir)


def test_a_folder_that_is_swapped_all_the_time_leads_nowhere(workdir, outside):
    """What reaches the folder that was there when it was opened is right: it is ours."""
    folder, stop = workdir / "evaluation", threading.Event()

    def swap():
        for number in itertools.count():
            with contextlib.suppress(OSError):
                folder.rename(workdir / f"moved_{number}")
                folder.symlink_to(outside)
            with contextlib.suppress(OSError):
                folder.unlink()
            if stop.is_set():
                return

    prediction = Prediction(np.zeros((4, 4), np.uint8), "grey")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(30):
            with contextlib.suppress(OSError):
                _evaluation(workdir)
            with contextlib.suppress(OSError):
                prediction.save(folder / "mask.png", below=workdir)
    finally:
        stop.set()
        thread.join()
    written = {path.name for path in workdir.glob("moved_*/*")}
    assert {"test.json", "mask.png"} <= written <= {"test.json", "test.png", "mask.png"}


# Results


def test_a_result_replaces_links_and_follows_no_folder(tmp_path, outside):
    output = tmp_path / "results"
    plant(output / "mask.png", "link", outside)
    prediction = Prediction(np.full((4, 4), 7, np.uint8), "grey")
    prediction.save(output / "mask.png", below=output)
    assert np.asarray(Image.open(output / "mask.png")).tolist() == [[7] * 4] * 4
    assert not (output / "mask.png").is_symlink()
    plant(output / "case", "folder", outside)
    with pytest.raises(UnsafeFileError, match="case is a link"):
        prediction.save(output / "case" / "mask.png", below=output)
    plant(output / "mask.png", "pipe", outside)
    with pytest.raises(UnsafeFileError, match="no regular file"):
        prediction.save(output / "mask.png", below=output)
    assert sorted(os.listdir(output)) == ["case", "mask.png"]


def test_figures_and_weights_are_plain_files(tmp_path, outside, monkeypatch):
    path, user = tmp_path / "x", os.geteuid()
    for kind in ("pipe", "link", "new"):
        plant(path, kind, outside)
        with monkeypatch.context() as another:
            another.setattr(os, "geteuid", lambda: user + 1)  # of others, as in /tmp
            for write in (options.claim, lambda path: options.save(path, {"a": 1})):
                with pytest.raises(UnsafeFileError, match="x is"):
                    write(str(path))
        if kind == "pipe":
            with pytest.raises(UnsafeFileError, match="x is no regular file"):
                scaling.read(str(path))
            with pytest.raises(ConfigError, match=r"cannot be read as safetensors \(.*regular"):
                read_tensors(str(path), "config.loss.file: x")
            with pytest.raises(DataError, match="x is no regular file"):
                read_table(str(path), ["patient"], "patient")


# Prepared data


@pytest.fixture
def data(tmp_path, sample_data_dir):
    shutil.copytree(sample_data_dir, tmp_path / "data")
    return quickstart_data(tmp_path / "data")


def _directory(data):
    return prepared_directory(data.dataset, data.data_dir, **options_of(data))


def _prepare(data):
    return preparation.prepare(
        data.dataset, SAMPLES / data.sample, data.data_dir, **options_of(data)
    )


@pytest.mark.parametrize("open_data", [ensure_prepared, _prepare])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("preparation.json", "pipe"),
        ("features.json", "device"),
        ("dataset_info.json", "link"),
        ("state", "folder"),
        (".", "folder"),
        ("..", "folder"),
    ],
)
def test_prepared_data_is_refused_before_it_is_read(data, outside, open_data, name, kind):
    path = Path(os.path.normpath(_directory(data) / name))
    if kind == "folder" and name != "state":
        path.rename(path.with_name("moved"))
        path.symlink_to(path.with_name("moved"))
    else:
        plant(path, kind, outside)
    refusal = "is no regular file" if kind == "pipe" else "is a link"
    with pytest.raises(UnsafeFileError, match=f"{path} {refusal}"):
        open_data(data)


@pytest.mark.parametrize("kind", ["link", "new", "pipe"])
def test_the_lock_of_prepared_data_is_a_plain_file(tmp_path, outside, kind):
    data = quickstart_data(tmp_path / "data")
    lock = _directory(data).parent / "lock"
    plant(lock, kind, outside)
    with pytest.raises(UnsafeFileError, match=f"{lock} is"):
        _prepare(data)


def test_shards_of_a_killed_preparation_are_plain_files(tmp_path, outside):
    data = quickstart_data(tmp_path / "data")
    old = _directory(data).with_name("incomplete.ABCDEF_2.0.0")
    plant(old / "lidc_masks-train.array_record-00000-of-00001", "link", outside)
    with pytest.raises(UnsafeFileError, match="of-00001 is a link"):
        _prepare(data)


def test_preparation_makes_no_other_folders(tmp_path, monkeypatch):
    """What is not made cannot be left by a kill either."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    seen, read = [], preparation.DATASETS["lidc_masks"].Builder.read

    def looking(self, source, group):
        seen.extend(os.listdir(tmp_path / "temporary"))
        return read(self, source, group)

    monkeypatch.setattr(preparation.DATASETS["lidc_masks"].Builder, "read", looking)
    data = quickstart_data(tmp_path / "data")
    directory = _prepare(data)
    assert seen == os.listdir(tmp_path / "temporary") == []
    assert os.listdir(tmp_path / "data") == ["lidc_masks"]
    assert sorted(os.listdir(directory.parent)) == ["2.0.0", "lock"]
