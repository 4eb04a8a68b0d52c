"""Cut, changed or lost files of the newest checkpoint are named; the one before is used."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs import file_digests
from jax_pix2pix.runs.checkpoint import Checkpoints
from tests import commands
from tests.faults import runs

STEPS = 20  # two epochs
SAVED = 12  # the newest checkpoint that gets damaged; the one before is of step 8


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _remove(path):
    path.unlink()


def _grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path):
    path.write_bytes(b"")


DAMAGES = [_cut, _flip, _remove, _grow, _empty]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, "ssim", keep_last=2)
    for step in (4, 8):
        checkpoints.save(step, {"kernel": jnp.arange(100.0) + step}, {"ssim": 0.1})
    checkpoints.close()
    return folder


@pytest.mark.parametrize(("damaged", "used"), [(8, 4), (4, 8)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_file_is_named_and_the_other_step_used(
    saved, tmp_path, capsys, damage, damaged, used
):
    step = saved / str(damaged)
    files = [path.relative_to(saved) for path in step.rglob("*") if path.is_file()]
    # Files that Orbax writes when all is done do not matter to reading.
    late = ("commit_success.txt", "_CHECKPOINT_METADATA")
    files = [file for file in files if file.name not in late]
    assert len(files) > 5 and any(file.name == "metrics" for file in files)
    for number, file in enumerate(files):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(saved, folder)
        damage(folder / file)
        checkpoints = Checkpoints(folder, "ssim", keep_last=2)
        assert checkpoints.latest() == used, file
        assert checkpoints.resolve("best") == used
        checkpoints.close()
        (moved,) = (folder.parent / "damaged").iterdir()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: the checkpoint of step {damaged} is damaged: "), line
        # A change of the digests may show up as a change of a file that they describe.
        assert f"{folder / file} " in line or file.name == file_digests.NAME, line
        assert line.endswith(f"it is now {moved}" + (", and step 4 is used" if used == 4 else ""))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_has_no_digest_is_not_needed(saved, tmp_path, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    late = [folder / "8" / name for name in ("commit_success.txt", "_CHECKPOINT_METADATA")]
    for file in late:
        if file.exists():
            damage(file)
    checkpoints = Checkpoints(folder, "ssim")
    assert checkpoints.latest() == 8
    kernel = jnp.zeros(100)
    abstract = {"kernel": jax.ShapeDtypeStruct((100,), kernel.dtype, sharding=kernel.sharding)}
    np.testing.assert_array_equal(checkpoints.restore(8, abstract)["kernel"], np.arange(100) + 8)
    checkpoints.close()


def test_a_reader_is_told_and_nothing_is_moved(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "8" / "metrics" / "metrics").write_text("{}")
    checkpoints = Checkpoints(folder, "ssim", read_only=True)
    with pytest.raises(WorkdirError, match=r"step 8 is damaged: .*8/metrics/metrics has 2 bytes"):
        checkpoints.check_sound(8)
    checkpoints.check_sound(4)
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_finds_the_best_of_the_scores_that_can_be_read(saved, tmp_path, capsys, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    damage(folder / "8" / "metrics" / "metrics")
    checkpoints = Checkpoints(folder, "ssim", read_only=True)
    assert checkpoints.resolve("best") == 4
    assert f"step 8 is damaged: {folder}/8/metrics/metrics " in capsys.readouterr().err
    assert checkpoints.resolve("last") == 8
    with pytest.raises(WorkdirError, match=r"step 8 is damaged: .*8/metrics/metrics "):
        checkpoints.check_sound(8)
    assert sorted(path.name for path in folder.iterdir()) == ["4", "8"]


@pytest.mark.parametrize("metrics", ["{}", "[1]", "1", '{"ssim": "high"}', "{", "[" * 100_000])
def test_what_is_no_score_is_damage_whatever_its_digest(saved, tmp_path, capsys, metrics):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "8" / "metrics" / "metrics").write_text(metrics)
    file_digests.write(folder / "8")
    assert Checkpoints(folder, "ssim", read_only=True).resolve("best") == 4
    assert Checkpoints(folder, "ssim").latest() == 4
    assert capsys.readouterr().err.count("8/metrics/metrics does not hold a score; ") == 2


@pytest.mark.parametrize(
    "name", ["/dev/zero", f"{'../' * 20}dev/zero", "../other", "", "a/../b", "a\nb", "C:\\a"]
)
def test_digests_name_files_of_the_checkpoint_alone(tmp_path, name):
    folder = tmp_path / "8"
    folder.mkdir()
    (tmp_path / "other").write_text("")
    (folder / file_digests.NAME).write_text(json.dumps({name: [0, 0]}))
    problem = file_digests.damage(folder)
    named = f"names {name!a}, which is no file of this checkpoint"
    assert problem == f"{folder}/digests.json {named}"


@pytest.mark.parametrize("kind", ["device", "pipe", "elsewhere", "folder", file_digests.NAME])
def test_links_pipes_and_devices_are_no_files_of_a_checkpoint(tmp_path, kind):
    folder, path = tmp_path / "8", tmp_path / "8" / kind
    folder.mkdir()
    (tmp_path / "other").write_text("")
    (folder / file_digests.NAME).write_text(json.dumps({kind: [0, 0]}))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "other" if kind == "elsewhere" else "/dev/zero")
    said = "is no regular file" if kind in ("pipe", "folder") else "is a link"
    assert (file_digests.damage(folder) or "").startswith(f"{path} {said}")


def test_every_file_has_a_digest(tmp_path):
    for name in ("a", "b", *file_digests.LEFT_OUT):
        (tmp_path / name).write_text("")
    file_digests.write(tmp_path)
    path = tmp_path / file_digests.NAME
    digests = json.loads(path.read_text())
    assert digests.keys() == {"a", "b"} and file_digests.damage(tmp_path) is None
    for left, problem in (
        ({}, f"{path} names no file"),
        ({"a": digests["a"]}, f"{tmp_path}/b is not named in {path}"),
        (digests | {"c": [0, 0]}, f"{tmp_path}/c is missing"),
    ):
        path.write_text(json.dumps(left))
        assert file_digests.damage(tmp_path) == problem
    path.write_text(json.dumps({"a": digests["a"]}))
    assert file_digests.damage(tmp_path, "b") == f"{tmp_path}/b is not named in {path}"
    assert file_digests.damage(tmp_path, "not/there") is None


@pytest.mark.parametrize(
    "text",
    ["[1]", "1", '{"a": 1}', '{"a": {}}', '{"a": []}', '{"a": [0]}', '{"a": "00"}', "[" * 100_000],
)
def test_what_is_no_table_of_digests_is_damage(tmp_path, text):
    (tmp_path / "a").write_text("")
    (tmp_path / file_digests.NAME).write_text(text)
    problem = file_digests.damage(tmp_path) or ""
    assert "does not hold what was written there" in problem or "instead of" in problem


def _arguments(workdir, data_dir):
    tiny = {
        "data.batch_size": 14,
        "data.image_size": 32,
        "generator.depth": 3,
        "checkpoint_every_steps": 4,
        "checkpoint_every_epochs": 2,
    }
    return commands.tiny_training(workdir, data_dir, **tiny)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, sample_data_dir):
    """-> (a whole run's workdir, the workdir of a twin killed at the checkpoint of step SAVED)."""
    folder = tmp_path_factory.mktemp("stopped")
    whole, killed = folder / "whole", folder / "killed"
    runs.train(_arguments(whole, sample_data_dir))
    with runs.started(_arguments(killed, sample_data_dir)) as running:
        runs.wait_for(lambda: SAVED in runs.steps(killed), running)
        running[0].send_signal(signal.SIGKILL)
        runs.finish(running, -signal.SIGKILL)
    for step in runs.steps(killed):
        if step > SAVED:
            shutil.rmtree(killed / "checkpoints" / str(step))
    return whole, killed


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [_cut, *(pytest.param(x, marks=pytest.mark.long) for x in (_flip, _remove))]
)
def test_a_run_goes_on_from_the_one_before(stopped, sample_data_dir, tmp_path, damage):
    whole, killed = stopped
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    folder = workdir / "checkpoints" / str(SAVED)
    file = max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda x: x.stat().st_size
    )
    damage(file)
    ((_, err),) = runs.train(_arguments(workdir, sample_data_dir))
    # The kill may have come when an older one was being deleted, which is damage as well.
    (line,) = [
        line
        for line in err.splitlines()
        if line.startswith(f"warning: the checkpoint of step {SAVED}")
    ]
    assert f"step {SAVED} is damaged: {file} " in line and "and step 8 is used" in line
    (moved,) = (workdir / "damaged").glob(f"{SAVED}-*")
    assert moved.name.startswith(f"{SAVED}-") and str(moved) in line
    assert runs.steps(workdir)[-1] == STEPS
    runs.assert_equal(whole, workdir)


@pytest.mark.slow
def test_two_processes_agree_on_the_one_before(stopped, sample_data_dir, tmp_path):
    """Two processes go on with what one process wrote."""
    _, killed = stopped
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    _flip(next((workdir / "checkpoints" / str(SAVED) / "state").glob("d/*")))
    outputs = runs.train(_arguments(workdir, sample_data_dir), 2)
    assert [err.count("warning: the checkpoint of step 12") for _, err in outputs] == [1, 0]
    assert runs.steps(workdir)[-1] == STEPS


@pytest.mark.slow
def test_if_all_are_damaged_the_run_ends_and_keeps_them(stopped, sample_data_dir, tmp_path):
    _, killed = stopped
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    steps = runs.steps(workdir)
    for step in steps:
        digests = workdir / "checkpoints" / str(step) / file_digests.NAME
        if digests.exists():  # the kill may have come when the oldest one was being deleted
            _cut(digests)
    _, err = commands.run("launch.train", *_arguments(workdir, sample_data_dir), code=1)
    assert err.count("warning: the checkpoint of step") == len(steps) >= 2
    assert f"error: {workdir}/checkpoints: all {len(steps)} checkpoints are damaged" in err
    assert len(list((workdir / "damaged").iterdir())) == len(steps)
