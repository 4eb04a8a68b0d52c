"""Where a run's time went: against closed forms, and a stopwatch around a killed run."""

import json
import signal
import subprocess
import sys
import time

import pytest

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.clock import Clock, process_age
from jax_pix2pix.logs.goodput import COLUMNS, of_workdir, restart_cost, summarise, table
from jax_pix2pix.logs.logbook import Logbook
from tests import commands

STEPS = 51  # 3 epochs of 17


def _line(number, split, at, restart=None, **seconds):
    line = {"step": number, "epoch": number / 10, "split": split, "seconds": seconds, "time": at}
    return line | ({"restart": restart} if restart else {})


def _train_line(step, at):
    return {"step": step, "split": "train", "loss_G": 1.0, "time": at}


# A run that starts at 1000, is killed at step 25 after a checkpoint of step 10, goes on at 1100.
FIRST = [
    _line(0, "start", 1030.0, startup=20.0, compile=10.0),
    _train_line(10, 1045.0),
    _line(10, "seconds", 1045.0, step=12.0, input=3.0),
    _line(10, "seconds", 1050.0, evaluation=4.0, checkpoint=1.0),
]
LOST = [_line(20, "seconds", 1065.0, step=14.0, input=1.0)]
COST = {"lost_steps": 10, "lost_seconds": 15.0, "down_seconds": 35.0}
SECOND = [
    _line(10, "start", 1120.0, COST, startup=15.0, compile=5.0),
    _line(20, "seconds", 1130.0, step=10.0),
]


def _seconds(**seconds):
    return dict.fromkeys(COLUMNS, 0.0) | seconds


def test_a_run_that_is_still_going():
    summary = summarise([FIRST])
    assert summary["seconds"] == _seconds(
        startup=20.0, compile=10.0, step=12.0, input=3.0, evaluation=4.0, checkpoint=1.0
    )
    assert summary["wall_seconds"] == 50 and summary["shares"]["step"] == 12 / 50
    assert sum(summary["shares"].values()) == pytest.approx(1)
    (attempt,) = summary["attempts"]
    assert (attempt["from_step"], attempt["to_step"], attempt["lost_steps"]) == (0, 10, 0)


def test_a_restart_costs_what_is_trained_again_and_the_time_between():
    assert restart_cost(FIRST + LOST, 10, began=1100.0) == COST
    # No time is booked yet for the steps of the last line.
    assert restart_cost([*FIRST, *LOST, _train_line(25, 1080.0)], 10, 1100.0) == COST | {
        "lost_steps": 15
    }
    # Nothing was trained since the checkpoint, and the clock of the other host is behind.
    nothing = {"lost_steps": 0, "lost_seconds": 0, "down_seconds": 0.0}
    assert restart_cost(FIRST, 10, began=1049.0) == nothing

    summary = summarise([FIRST + SECOND])
    assert summary["wall_seconds"] == 130  # 1000 to 1130
    assert summary["seconds"] == _seconds(
        startup=35.0, compile=15.0, step=22.0, input=3.0, evaluation=4.0, checkpoint=1.0,
        lost=15.0, down=35.0,
    )  # fmt: skip
    first, second = summary["attempts"]
    assert first == summarise([FIRST])["attempts"][0]
    assert second["seconds"] == _seconds(lost=15.0, down=35.0, startup=15.0, compile=5.0, step=10.0)
    assert second["shares"]["down"] == 35 / 80 and second["lost_steps"] == 10
    assert (second["from_step"], second["to_step"]) == (10, 20)


def test_scales_of_a_pyramid_follow_one_another():
    """The process that ends the first scale is killed before the next; a new one goes on."""
    began_again = [
        _line(0, "start", 1210.0, startup=6.0, compile=4.0),
        _line(5, "seconds", 1220.0, step=10.0),
    ]
    summary = summarise([FIRST + SECOND, began_again])
    assert summary["wall_seconds"] == 220  # 1000 to 1220
    assert summary["seconds"]["down"] == 35 + 70  # from 1130 to 1200
    assert [attempt["log"] for attempt in summary["attempts"]] == [0, 0, 1]
    without = [_line(0, "start", 1140.0, startup=6.0, compile=4.0)]  # in the same process
    assert summarise([FIRST + SECOND, without])["seconds"]["down"] == 35
    assert len(table(summary).splitlines()) == 5


def test_lines_without_seconds_say_nothing():
    assert summarise([[_train_line(10, 1.0)]]) is None
    assert summarise([[]]) is None


def test_a_clock_counts_each_second_once():
    clock = Clock(age=100.0)
    begun = time.monotonic()
    clock.book("startup")
    time.sleep(0.2)
    clock.book("step")
    first = clock.take()
    time.sleep(0.1)
    clock.book("step")
    clock.book("input")
    second = clock.take()
    assert 100 <= first["startup"] < 100.1 and 0.2 <= first["step"] < 0.3
    assert 0.1 <= second["step"] < 0.2 and "startup" not in second
    total = sum(first.values()) + sum(second.values())
    assert total == pytest.approx(100 + time.monotonic() - begun, abs=0.01)
    assert sum(clock.seconds.values()) == pytest.approx(total, abs=1e-4)


def test_the_age_of_a_process_is_that_since_its_start():
    code = (
        "import time; time.sleep(0.5); "
        "from jax_pix2pix.logs import clock; print(clock.process_age())"
    )
    begun = time.monotonic()
    arguments = [sys.executable, "-c", code]
    out = subprocess.run(arguments, cwd=commands.ROOT, check=True, capture_output=True).stdout
    assert 0.5 < float(out) < time.monotonic() - begun + 0.02
    assert process_age() > 1


def _write(workdir, *lines, end="\n"):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (workdir / "metrics.jsonl").write_text(text + end)


def _logbook(workdir, start_step):
    clock = Clock(age=5.0)
    clock.book("startup")
    return Logbook(str(workdir), start_step, 100, 10, clock)


def _read(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_goes_on_keeps_what_was_lost(tmp_path):
    _write(tmp_path, *FIRST, *LOST, '{"step": 30, "sp', end="")
    before = time.time()
    _logbook(tmp_path, 10).close()
    *lines, start = _read(tmp_path)
    assert lines == FIRST
    assert (start["step"], start["split"]) == (10, "start")
    assert start["seconds"] == {"startup": pytest.approx(5, abs=0.1)}
    down = start["restart"].pop("down_seconds")
    assert down == pytest.approx(before - 5 - 1065, abs=1)
    assert start["restart"] == {"lost_steps": 10, "lost_seconds": 15.0}
    # The last checkpoint is damaged, so the run goes on from an earlier one. Old starts are kept.
    _logbook(tmp_path, 0).close()
    lines = _read(tmp_path)
    assert [(line["step"], line["split"]) for line in lines] == [(n, "start") for n in (0, 10, 0)]
    assert lines[-1]["restart"]["lost_seconds"] == 12 + 3 + 4 + 1
    wall = summarise([lines])["wall_seconds"]
    assert wall == pytest.approx(lines[-1]["time"] - 1000, abs=10)  # two clocks of age 5


@pytest.mark.parametrize(
    "damaged",
    [
        '{"step": 10, "split": "tr',
        "\0\0\0\0",
        "[1, 2]",
        "7",
        '{"step": 10}',
        '{"step": "ten", "split": "train"}',
        '{"step": 1, "split": "seconds", "time": 1.0, "seconds": {"step": "long"}}',
        '{"step": 1, "split": "start", "time": 1.0}',
        '{"step": 1, "split": "seconds", "time": 1.0, "seconds": {"sleep": 1.0}}',
        '{"step": 1, "split": "unfinished", "metrics": [{"loss_G": "low"}]}',
        '{"step": 1, "split": "unfinished", "metrics": [1.0]}',
        '{"step": 1, "split": "unfinished"}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(tmp_path, damaged):
    _write(tmp_path, *FIRST, damaged, *SECOND)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    message = f"{tmp_path}/metrics.jsonl: line 5 is damaged"
    with pytest.raises(WorkdirError, match=message):
        of_workdir(str(tmp_path))
    with pytest.raises(WorkdirError, match=message):
        _logbook(tmp_path, 10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_command_refuses_in_one_line(tmp_path):
    def refusal():
        _, err = commands.run("launch.goodput", f"--workdir={tmp_path}", code=1)
        return commands.error_line(err)

    assert f"{tmp_path}/metrics.jsonl does not exist: is this the workdir of a run?" in refusal()
    _write(tmp_path, _train_line(10, 1.0))
    assert "has not come to its first step, or is of an earlier version" in refusal()
    _write(tmp_path, *FIRST, "{")
    assert "line 5 is damaged ('{'): delete that line, or restore the file" in refusal()
    _write(tmp_path, *FIRST, "{", end="")  # cut short
    commands.run("launch.goodput", f"--workdir={tmp_path}", f"--json={tmp_path}/g.json")
    assert json.loads((tmp_path / "g.json").read_text())["wall_seconds"] == 50


@pytest.mark.slow
def test_a_killed_and_resumed_run_accounts_for_a_stopwatchs_time(sample_data_dir, tmp_path):
    fields = {"data.batch_size": 8, "epochs": 3, "sample_every_epochs": 3, "log_every_steps": 5}
    fields |= {"data.image_size": 64, "generator.depth": 5}  # slow enough to be killed in time
    arguments = commands.tiny_training(tmp_path, sample_data_dir, **fields)
    begun = time.time()
    process = commands.start("launch.train", *arguments)
    log = tmp_path / "metrics.jsonl"
    while not (tmp_path / "checkpoints" / "17").exists() or '"step": 25' not in log.read_text():
        assert process.poll() is None and time.time() < begun + 120, process.communicate()
        time.sleep(0.005)
    process.kill()
    commands.finish(process, -signal.SIGKILL)
    assert not (tmp_path / "checkpoints" / "34").exists()

    going = of_workdir(str(tmp_path))  # as of a run that is still going
    assert going["attempts"][0]["to_step"] >= 20
    assert 0 < going["wall_seconds"] < time.time() - begun
    time.sleep(3)  # between the processes

    out, _ = commands.run("launch.train", *arguments)
    # It excludes what comes after the last line: the end of TensorBoard's files and of Python.
    stopwatch = log.stat().st_mtime - begun
    summary = json.loads((tmp_path / "goodput.json").read_text())
    assert summary == of_workdir(str(tmp_path)) and table(summary) in out
    assert sum(summary["shares"].values()) == pytest.approx(1)
    assert stopwatch - 1 < summary["wall_seconds"] < stopwatch + 0.1
    first, second = summary["attempts"]
    assert (first["from_step"], first["to_step"]) == (0, 17)
    assert (second["from_step"], second["to_step"]) == (17, STEPS)
    assert second["lost_steps"] >= 8 and second["seconds"]["lost"] > 0
    assert 3 < second["seconds"]["down"] < stopwatch
    for attempt in (first, second):
        for kind in ("step", "compile", "evaluation", "checkpoint", "startup"):
            assert attempt["seconds"][kind] > 0, (attempt, kind)
    printed, _ = commands.run("launch.goodput", f"--workdir={tmp_path}")
    assert printed.strip() == table(summary)
