"""Real trackers, MLflow in a folder and Weights & Biases offline, and their failures."""

import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jax_pix2pix.environment import environment
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.logs import trackers, writers
from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.logs.logbook import Logbook
from jax_pix2pix.logs.metrics_log import points, read_metrics
from jax_pix2pix.runs.workdir_files import check_files
from tests import commands, mlflow_store, wandb_files

STEPS, PER_EPOCH = 10, 5
CONFIG = {"seed": 7, "data.flip": False, "loss.window_hu": (-1000, 400), "data.sample": ""}
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def _train(workdir, tracker, first, last):
    """Runs steps without a network; a step's lines are the same whenever it is trained."""
    clock = Clock()
    clock.book("startup")
    asked = [tracker] if tracker else []
    log = Logbook(str(workdir), first - 1, STEPS, PER_EPOCH, clock, config=CONFIG, trackers=asked)
    for step in range(first, last + 1):
        clock.book("step")
        log.advance()
        log.scalars(step, "train", {"loss_G": 1 / step, "ssim": step / 7}, batch_ids=step)
        log.seconds(step)
        if step % PER_EPOCH == 0:
            log.image(step, "samples", PICTURE)
            log.scalars(step, "validation", {"ssim": step / 9})
    log.close()


def _expected(workdir):
    """{name: [(step, value)]} from metrics.jsonl."""
    values = {}
    for line in read_metrics(str(workdir)):
        for key, value in points(line).items():
            values.setdefault(f"{line['split']}/{key}", []).append((line["step"], value))
    return values


def _goodput(histories):
    """Removes the shares of the time from the histories; they exist only for the last step."""
    shares = {key: histories.pop(key) for key in list(histories) if key.startswith("goodput/")}
    assert {step for values in shares.values() for step, _ in values} == {STEPS}
    assert sum(value for values in shares.values() for _, value in values) == pytest.approx(1)


def test_mlflow_has_the_lines_of_a_run_that_was_stopped(tmp_path):
    tracker = trackers.mlflow_writer(str(tmp_path / "mlruns"), "flagship", "runs/a")
    workdir = tmp_path / "run"
    workdir.mkdir()
    _train(workdir, tracker, 1, 8)
    assert mlflow_store.read(tmp_path / "mlruns", "flagship")[1].info.status == "KILLED"
    _train(workdir, tracker, 6, STEPS)  # steps 6 to 8 once more
    client, run, histories = mlflow_store.read(tmp_path / "mlruns", "flagship")
    _goodput(histories)
    assert histories == _expected(workdir)
    assert [step for step, _ in histories["train/loss_G"]] == list(range(1, STEPS + 1))
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in CONFIG.items()}
    pictures = client.list_artifacts(run.info.run_id, "samples")
    assert [x.path for x in pictures] == [f"samples/step_{step:08d}.png" for step in (5, 10)]


@pytest.mark.slow
def test_wandb_has_the_lines_of_a_run_that_was_stopped(tmp_path):
    tracker = trackers.wandb_writer("flagship", "runs/a")
    _train(tmp_path, tracker, 1, 8)
    _train(tmp_path, tracker, 6, STEPS)
    check_files(str(tmp_path))  # W&B's own links hinder nobody
    attempts = list(wandb_files.attempts(tmp_path))
    assert len(attempts) == 2 and attempts[0][0] == attempts[1][0]
    histories = {}
    for _, config, rows in attempts:
        assert {key: config[key] for key in CONFIG} == CONFIG | {"loss.window_hu": [-1000, 400]}
        for row in rows:
            for key, value in row.items():
                if "/" in key:
                    histories.setdefault(key, []).append((row["_step"], value))
    _goodput(histories)
    assert histories == _expected(tmp_path)
    pictures = [row["_step"] for _, _, rows in attempts for row in rows if "samples" in row]
    pictures += [row["_step"] for _, _, rows in attempts for row in rows if "samples._type" in row]
    assert pictures == [5, 10]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_asked_for_late_gets_what_was_before(tmp_path, name):
    workdir, store = tmp_path / "run", tmp_path / "mlruns"
    workdir.mkdir()
    _train(workdir, None, 1, 5)
    if name == "mlflow":
        _train(workdir, trackers.mlflow_writer(str(store), "flagship", "runs/a"), 6, STEPS)
        losses = mlflow_store.read(store, "flagship")[2]["train/loss_G"]
    else:
        _train(workdir, trackers.wandb_writer("flagship", "runs/a"), 6, STEPS)
        ((_, _, rows),) = wandb_files.attempts(workdir)
        losses = [(row["_step"], row["train/loss_G"]) for row in rows if "train/loss_G" in row]
    assert losses == _expected(workdir)["train/loss_G"]
    assert len(losses) == STEPS


OF_STORES = [  # the local folder, the run's name and its recorded place
    ("run", "liver_7", "s3://bucket/team/liver_7"),
    ("run/scale_0", "liver_7/scale_0", "s3://bucket/team/liver_7/scale_0"),
]


@pytest.mark.parametrize(("folder", "name", "url"), OF_STORES)
def test_runs_have_the_names_that_their_users_gave(tmp_path, folder, name, url):
    (tmp_path / folder).mkdir(parents=True)
    given = "s3://bucket/team/liver_7/"
    _train(tmp_path / folder, trackers.mlflow_writer(str(tmp_path / "ml"), "f", given), 1, STEPS)
    _, run, _ = mlflow_store.read(tmp_path / "ml", "f")
    revision = environment()["revision"]
    assert run.info.run_name == name
    assert (run.data.tags["workdir"], run.data.tags["revision"]) == (url, revision)
    _train(tmp_path / folder, trackers.wandb_writer("f", given), 1, STEPS)
    ((_, config, _),) = wandb_files.attempts(tmp_path / folder)
    assert (config["workdir"], config["revision"]) == (url, revision)
    (path,) = (tmp_path / folder).glob("wandb/offline-run-*/*.wandb")
    assert name in {x.run.display_name for x in wandb_files.records(path) if x.HasField("run")}


def test_mlflow_takes_names_and_values_of_any_kind(tmp_path):
    store, workdir = tmp_path / "mlruns", tmp_path / "run"
    workdir.mkdir()
    history = {"kept": [], "last": {}}
    identity = "a", {"workdir": "x" * 9000}
    tracker = trackers.Mlflow(str(store), "odd", str(workdir), history, identity)
    tracker.config({"../a\nb": "c\nd", "/e": 1, "k" * 300: 2})
    tracker.scalars(1, "train", {"../loss\x1b/G": 0.5})
    tracker.close(True)
    _, run, histories = mlflow_store.read(store, "odd")
    assert run.data.params == {"a_b": "c\nd", "e": "1", "k" * 250: "2"}
    assert histories == {"train/loss_/G": [(1, 0.5)]}
    assert len(run.data.tags["workdir"]) == 5000


def test_runs_have_names_without_what_acts(tmp_path):
    name, fields = trackers._identity("s3://bucket/a\x1b[2J\u202e", str(tmp_path))
    assert (name, fields["workdir"]) == (r"a\x1b[2J\u202e", r"s3://bucket/a\x1b[2J\u202e")


def test_tensorboard_takes_names_of_any_kind(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = writers.TensorBoard(str(tmp_path), 0)
    board.config({"a\n# b <script>": "c\n# d <script>"})
    board.scalars(1, "train", {"loss\n\x1b[2J": 0.5})
    board.close(True)
    events = EventAccumulator(str(tmp_path)).Reload()
    (tag,) = events.Tags()["scalars"]
    assert tag.isprintable()
    (text,) = events.Tensors("config/text_summary")
    (shown,) = text.tensor_proto.string_val
    assert shown.decode() == r"    a\n# b <script> = 'c\n# d <script>'"  # a block of code


def test_a_run_in_a_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, workdir, name in (
        ("runs/a/", "runs/a", "a"),
        ("runs/a", "runs/a/scale_2", "a/scale_2"),
        (".", ".", tmp_path.name),
    ):
        found, fields = trackers._identity(given, workdir)
        assert found == name and fields["workdir"] == str((tmp_path / workdir).resolve())


def test_another_target_is_another_run(tmp_path):
    (tmp_path / "run").mkdir()
    for store in ("one", "two"):
        tracker = trackers.mlflow_writer(str(tmp_path / store), "flagship", "runs/a")
        _train(tmp_path / "run", tracker, 1, 3)
    assert len(mlflow_store.read(tmp_path / "one", "flagship")[2]["train/ssim"]) == 3
    assert len(mlflow_store.read(tmp_path / "two", "flagship")[2]["train/ssim"]) == 3


def test_a_tracker_that_fails_is_one_warning(tmp_path, capsys):
    store, workdir = tmp_path / "mlruns", tmp_path / "run"
    workdir.mkdir()
    tracker = trackers.mlflow_writer(str(store), "flagship", "runs/a")
    opened = []

    def losing_its_store(workdir, history):
        opened.append(tracker(workdir, history))
        deadline = time.monotonic() + 60
        while not list(store.glob("*/*/params")) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(store)
        store.write_text("no folder any more")
        return opened[0]

    _train(workdir, losing_its_store, 1, STEPS)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(warnings) == 1 and "MLflow gets nothing more of this run (" in warnings[0]
    assert "training goes on" in warnings[0]
    assert len(_expected(workdir)["train/loss_G"]) == STEPS


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writers, "CLOSE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        trackers.check_usable(None, uri)
        begun = time.monotonic()
        _train(tmp_path, trackers.mlflow_writer(uri, "flagship", "runs/a"), 1, STEPS)
        assert time.monotonic() - begun < 5
    err = capsys.readouterr().err
    assert "MLflow gets nothing more of this run (it is not done 0.5 s after the last" in err
    assert len(_expected(tmp_path)["train/loss_G"]) == STEPS


def test_a_writer_that_falls_behind_is_left_behind(monkeypatch, capsys):
    monkeypatch.setattr(writers, "WAITING", 3)
    slow = writers.InBackground("slow", lambda: time.sleep(30))
    for step in range(10):
        slow.scalars(step, "train", {"loss": 0.0})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: slow gets nothing more of this run (it is 3 lines behind)")


def test_a_damaged_record_is_named(tmp_path, capsys):
    (tmp_path / "tracker_mlflow.json").write_text('{"mlr')
    _train(tmp_path, trackers.mlflow_writer(str(tmp_path / "mlruns"), "flagship", "runs/a"), 1, 2)
    assert "tracker_mlflow.json is damaged: delete it for a new run" in capsys.readouterr().err


def test_an_address_that_mlflow_does_not_know(tmp_path):
    for uri in ("ftp://host/x", "s3://bucket/mlruns"):
        with pytest.raises(ConfigError) as refused:
            trackers.check_usable(None, uri)
        assert str(refused.value) == (
            f"--mlflow={uri}: use a folder of this machine or the http address of a server; a "
            "database needs pip install mlflow"
        )
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--mlflow=.*file: .*Not a directory.*; use a folder"):
        trackers.check_usable(None, str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="--wandb is empty"):
        trackers.check_installed("", None)


@pytest.mark.slow
def test_nobody_is_logged_in(tmp_path):
    code = "from jax_pix2pix.logs import trackers; trackers.check_usable('flagship', None)"
    without = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    without |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    for key, reason in ((None, "nobody is logged in"), ("short", "WANDB_API_KEY invalid")):
        environment = without | ({"WANDB_API_KEY": key} if key else {})
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=commands.ROOT, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        last = done.stderr.splitlines()[-1]
        assert reason in last and "--wandb=flagship" in last and "WANDB_MODE=offline" in last


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, name, package):
    code = (
        f"import runpy, sys; sys.modules[{name!r}] = None; "
        "sys.argv[0] = 'launch.train'; runpy.run_module('launch.train', run_name='__main__')"
    )
    arguments = commands.tiny_training(tmp_path / "run", tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, f"--{name}=here"],
        cwd=commands.ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 1
    line = commands.error_line(done.stderr)
    assert line == f"error: --{name} needs a package that is missing: pip install {package}"
    assert not list(tmp_path.iterdir())
