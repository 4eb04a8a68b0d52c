"""Starts in a row that do not get further are counted, and end."""

import json
import uuid

import pytest

from jax_pix2pix.errors import UnreachableError, WorkdirError
from jax_pix2pix.runs import restarts
from jax_pix2pix.runs.restarts import STARTS, counted
from jax_pix2pix.runs.stores import remote_workdir, storage


class Killed(BaseException):
    """In place of a signal that ends the process."""


def _killed(workdir, submission="one", times=1):
    for _ in range(times):
        with pytest.raises(Killed), counted(str(workdir), submission):
            raise Killed


def _refused(workdir, match):
    with pytest.raises(WorkdirError, match=match), counted(str(workdir), "one"):
        raise AssertionError("it trained")


def _checkpoint(folder, step):
    (folder / "checkpoints" / str(step)).mkdir(parents=True)


def test_the_fourth_start_in_a_row_is_refused(tmp_path):
    _killed(tmp_path, times=STARTS)
    for _ in range(2):  # again and again, until somebody looks
        _refused(tmp_path, r"3 starts in a row from the beginning .*logs.* delete .*starts\.json")
    _killed(tmp_path, "another submission")
    _killed(tmp_path, times=STARTS)
    (tmp_path / restarts.FILE).unlink()
    _killed(tmp_path)


def test_a_newer_checkpoint_begins_anew(tmp_path):
    _killed(tmp_path, times=STARTS)
    _checkpoint(tmp_path, 5)
    _killed(tmp_path, times=STARTS)
    _refused(tmp_path, "from the checkpoint of step 5 ")


def test_a_scale_of_a_pyramid_is_progress(tmp_path):
    _checkpoint(tmp_path / "scale_0", 90)
    _killed(tmp_path, times=STARTS)
    (tmp_path / "scale_1").mkdir()  # begun, and no checkpoint yet
    _refused(tmp_path, "step 90 ")
    _checkpoint(tmp_path / "scale_1", 5)
    _killed(tmp_path, times=STARTS)
    _refused(tmp_path, "step 5 ")


def test_starts_by_hand_and_starts_that_end_well_are_not_counted(tmp_path):
    _killed(tmp_path, None, times=STARTS + 1)
    assert not list(tmp_path.iterdir())
    for _ in range(STARTS + 1):
        with counted(str(tmp_path), "one"):
            pass
    _killed(tmp_path, times=STARTS)


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": "9"}', "[" * 9999])
def test_a_damaged_file_counts_anew(tmp_path, content):
    (tmp_path / restarts.FILE).write_text(content)
    _killed(tmp_path, times=STARTS)
    _refused(tmp_path, "3 starts")


def test_a_link_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("{}")
    (tmp_path / restarts.FILE).symlink_to(other)
    with pytest.raises(OSError, match=r"starts\.json is a link"), counted(str(tmp_path), "one"):
        pass


def test_a_store_has_the_count_at_once(tmp_path, monkeypatch):
    """A run that is killed within seconds copies nothing else there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_workdir, "FINISH_SECONDS", 0)
    url = f"memory://{uuid.uuid4().hex}/run"
    with pytest.raises(Killed), remote_workdir.training(url) as folder, counted(folder, "one"):
        assert json.loads(storage.Store(url).read(restarts.FILE))["starts"] == 1
        raise Killed
    with remote_workdir.training(url) as folder:
        monkeypatch.setattr(storage.Store, "write", _unreachable)
        with pytest.raises(UnreachableError, match="cannot be reached now"):
            _killed(folder)
        monkeypatch.undo()


def _unreachable(*_):
    raise storage.Unreachable("the store cannot be reached now")
