"""What can be seen from outside of a run that is really killed or slowed down."""

import json
import re
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jax_pix2pix.logs.metrics_log import points, read_metrics
from tests import commands, mlflow_store, wandb_files
from tests.faults import runs

pytestmark = pytest.mark.slow

SMALL = {"data.batch_size": 14, "data.image_size": 32, "generator.depth": 3}


def _begins(workdir, process, processes):
    """Whether each line of a process's log, tracebacks aside, has the time and the rank."""
    start = rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z \[{process}/{processes}\] [A-Z]+ "
    return all(re.match(start, line) for line in runs.process_log(workdir, process).splitlines())


def test_killed_and_started_again(sample_data_dir, tmp_path):
    """Trackers have each step once, in one run. The process's log has both starts."""
    workdir, store = tmp_path / "run", tmp_path / "mlruns"
    fields = SMALL | {"checkpoint_every_steps": 5}
    arguments = commands.tiny_training(workdir, sample_data_dir, **fields)
    arguments += ["--wandb=flagship", f"--mlflow={store}"]
    offline = {"variables": {"WANDB_MODE": "offline"}}
    with runs.started(arguments, **offline) as running:
        runs.wait_for(lambda: runs.logged_step(workdir) >= 12, running)
        running[0].kill()
        commands.finish(running[0], -signal.SIGKILL)
    killed_at = runs.logged_step(workdir)
    ((_, err),) = runs.train(arguments, **offline)
    assert "gets nothing more" not in err, err

    expected = {}
    for line in read_metrics(str(workdir)):
        for key, value in points(line).items():
            expected.setdefault(f"{line['split']}/{key}", {})[line["step"]] = value
    assert list(expected["train/loss_G"]) == list(range(1, 21))

    client, run, histories = mlflow_store.read(store, "lidc_mask2ct")
    assert run.data.params["data.batch_size"] == "14" and run.info.status == "FINISHED"
    again = ("images_per_second", "input_wait")  # keep the values of a step's first training
    for key, values in expected.items():
        assert [step for step, _ in histories[key]] == list(values), key
        if not key.endswith(again):
            assert dict(histories[key]) == values, key
    (picture,) = client.list_artifacts(run.info.run_id, "samples")
    assert picture.path == "samples/step_00000020.png"

    attempts = list(wandb_files.attempts(workdir))
    # W&B's own process may have written nothing yet when it was killed too.
    assert len({run_id for run_id, _, _ in attempts if run_id}) == 1 and len(attempts) == 2
    losses = [
        (row["_step"], row["train/loss_G"])
        for _, _, rows in attempts
        for row in rows
        if "train/loss_G" in row
    ]
    assert dict(losses).items() <= expected["train/loss_G"].items()
    assert len(dict(losses)) == len(losses)
    missing = set(expected["train/loss_G"]) - set(dict(losses))
    assert missing <= set(range(1, killed_at + 1))  # were on their way at the kill

    board = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    (share,) = board.Scalars("goodput/step")
    summary = json.loads((workdir / "goodput.json").read_text())
    assert share.step == 20 and share.value == pytest.approx(summary["shares"]["step"], abs=0.05)
    assert "config/text_summary" in board.Tags()["tensors"]

    assert _begins(workdir, 0, 1)
    assert runs.logged(
        workdir, 0, r"start on .*, pid \d+, 1 of 1 devices", "ready to train; .*compile",
        "checkpoint of step 5: being written", "start on ", "restored the checkpoint of step ",
        "checkpoint of step 20: being written", "end, exit code 0",
    )  # fmt: skip


def test_a_slow_reader_is_named(sample_data_dir, tmp_path):
    """One of two processes is slow. Only one writes to the tracker; each has its own log."""
    workdir, store = tmp_path / "run", tmp_path / "mlruns"
    fields = SMALL | {"sample_every_epochs": 9, "checkpoint_every_epochs": 9}
    arguments = commands.tiny_training(workdir, sample_data_dir, **fields)
    arguments += ["--slow=1", "--seconds=0.5", f"--mlflow={store}"]
    outputs = runs.train(arguments, 2, module="tests.faults.slow_reader")
    printed = [out.count(": process 1 is the slowest, ") for out, _ in outputs]
    assert printed == [2, 0]
    lines = commands.metrics(workdir, "straggler")
    assert [line["step"] for line in lines] == [10, 20]
    for line in lines:
        assert line["process"] == 1 and line["slowest_seconds"] > 0.5
        assert line["slowest_seconds"] - line["median_seconds"] > 0.4
    _, _, histories = mlflow_store.read(store, "lidc_mask2ct")
    assert histories["straggler/process"] == [(10, 1), (20, 1)]
    assert {"straggler/slowest_seconds", "straggler/median_seconds"} <= histories.keys()
    for process in (0, 1):
        assert _begins(workdir, process, 2)
        where = r"1 of 2 devices \(cpu\), coordinator 127\.0\.0\.1:"
        assert runs.logged(workdir, process, where, "end, exit code 0")
