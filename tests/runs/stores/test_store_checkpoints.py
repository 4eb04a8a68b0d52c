"""Checkpoints that every process writes straight to a store, here in memory and in a folder."""

import json
import os
import re
import shutil
import time
import uuid
import zlib

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_pix2pix import sharding
from jax_pix2pix.errors import UnreachableError, WorkdirError
from jax_pix2pix.runs import file_digests, pieces
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.stores import mirror, remote_workdir, storage, store_checkpoints, store_lock
from jax_pix2pix.runs.stores.store_checkpoints import open_checkpoints
from tests import commands, gcs_server


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.02)


@pytest.fixture
def url():
    return f"memory://{uuid.uuid4().hex}"


def _placed(fsdp):
    """A state split over fsdp devices, in which each number is its own."""
    mesh = sharding.make_mesh(fsdp, 8)
    arrays = {
        "kernel": (jnp.arange(96.0).reshape(3, 4, 8), PartitionSpec(None, None, "fsdp")),
        "bias": (jnp.arange(8, dtype=jnp.bfloat16), PartitionSpec("fsdp")),
        "step": (jnp.int32(7), PartitionSpec()),
    }
    return {
        name: jax.device_put(x, NamedSharding(mesh, spec)) for name, (x, spec) in arrays.items()
    }


def _abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def _alone(state):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return _shaped(state, lambda array: device)


def _shaped(state, sharding_of):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(x)), state
    )


def _equal(a, b):
    for name in a | b:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), strict=True)


def _opened(folder, **options):
    return open_checkpoints(os.path.join(folder, "checkpoints"), "ssim", **options)


def _train(url, steps, state=None, **options):
    """A run that saves at these steps, {step: ssim or None}, and ends."""
    state = state or _placed(1)
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder, **options)
        for step, ssim in steps.items():
            checkpoints.save(step, state, None if ssim is None else {"ssim": ssim})
        checkpoints.close()


def _read(url, which, abstract):
    """As commands read it on another machine."""
    with remote_workdir.copied(url) as folder:
        assert not [path for path, *_ in os.walk(folder) if path.endswith("/state")]
        checkpoints = _opened(folder, read_only=True)
        step = checkpoints.resolve(which)
        checkpoints.check_sound(step)
        return step, checkpoints.restore(step, abstract)


@pytest.mark.parametrize(("saved", "restored"), [(1, 1), (4, 1), (1, 4), (4, 2), (4, 8)])
def test_what_is_restored_is_what_was_saved_on_any_devices(url, saved, restored):
    state = _placed(saved)
    _train(url, {10: 0.5}, state)
    like = _placed(restored)
    _, found = _read(url, "best", _abstract(like))
    _equal(found, state)
    assert {name: x.sharding for name, x in found.items()} == {
        name: x.sharding for name, x in like.items()
    }
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder)
        assert checkpoints.latest() == 10
        _equal(checkpoints.restore(10, _abstract(like)), state)
        checkpoints.close()


def test_large_states_are_in_several_files(url, monkeypatch):
    monkeypatch.setattr(pieces, "FILE_BYTES", 64)
    state = _placed(4)
    _train(url, {10: None}, state)
    files = [name for name in storage.Store(url).names() if name.endswith(".bin")]
    assert len(files) > 3
    _equal(_read(url, "last", _alone(state))[1], state)


def test_what_is_saved_is_as_it_was_although_the_state_is_donated(url, monkeypatch):
    write = store_checkpoints.StoreCheckpoints._write
    state = {"kernel": jnp.arange(1000.0)}
    change = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder)

        def late(self, *rest):
            changed.block_until_ready()
            write(self, *rest)

        monkeypatch.setattr(store_checkpoints.StoreCheckpoints, "_write", late)
        like = _alone(state)
        changed = jnp.zeros(1)
        checkpoints.save(1, state)
        changed = change(state)["kernel"]
        checkpoints.close()
    np.testing.assert_array_equal(_read(url, "last", like)[1]["kernel"], np.arange(1000.0))


def test_the_best_and_the_last_stay(url):
    _train(url, {1: 0.9, 2: 0.5, 3: None, 4: float("nan")}, keep_last=1)
    assert _steps(url) == {1, 4}
    state = _alone(_placed(1))
    assert _read(url, "best", state)[0] == 1 and _read(url, "last", state)[0] == 4
    _train(url, {5: 0.9, 6: 0.1}, keep_last=1)
    assert _steps(url) == {5, 6}


def _steps(url):
    """The steps that count in a store."""
    pattern = rf"checkpoints/(\d+)/{file_digests.NAME}"
    return set(map(int, re.findall(pattern, " ".join(storage.Store(url).names()))))


class Killed(BaseException):
    pass


class Dying(storage.Store):
    """A store whose process is killed after `left` objects."""

    left = 0

    def _count(self):
        if not self.left:
            raise Killed
        self.left -= 1

    def write(self, contents):
        for name, content in contents.items():
            self._count()
            super().write({name: content})

    def delete(self, names):
        for name in names:
            self._count()
            super().delete([name])


def test_a_run_killed_at_any_object_leaves_a_whole_checkpoint_and_logs_as_new(tmp_path, capsys):
    seen, state = [], _placed(1)
    for left in range(100):
        url, here = f"memory://{uuid.uuid4().hex}", tmp_path / f"run{left}"
        copy = mirror.Mirror(url, here)
        checkpoints = store_checkpoints.StoreCheckpoints(copy, "checkpoints", "ssim")
        _log(here, 10)
        checkpoints.save(10, state)
        checkpoints.wait()
        _log(here, 20)
        copy.store = Dying(url)
        copy.store.left = left
        try:
            checkpoints._save(20, "", pieces.held(state), None)
            killed = False
        except Killed:
            killed = True
        with remote_workdir.copied(url) as folder:
            found = _opened(folder, read_only=True)._found()
            lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        assert len(lines) >= found[-1]
        _equal(_read(url, "last", _alone(state))[1], state)
        half = re.findall(rf"{url}/checkpoints/20 is not used: its upload", capsys.readouterr().err)
        assert bool(half) == any("/20/" in x for x in storage.Store(url).names()) - (20 in found)
        seen.append(found)
        if not killed:
            break
        # The next start deletes what is incomplete, and goes on from the other.
        with remote_workdir.training(url) as folder:
            assert _opened(folder).latest() == found[-1]
        there = {name.split("/")[1] for name in storage.Store(url).names() if "/state/" in name}
        assert sorted(map(int, there)) == found
        capsys.readouterr()
    assert [step for i, step in enumerate(seen) if step not in seen[:i]] == [[10], [10, 20], [20]]


def _log(folder, step):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}}}\n' for i in range(step)))


def _change(url, name, change):
    """change(bytes) -> bytes, or None to delete an object."""
    store = storage.Store(url)
    content = change(fsspec.filesystem("memory").cat_file(store._path(name)))
    store.delete([name]) if content is None else store.write({name: content})


def _flipped(content):
    return bytes([content[0] ^ 1]) + content[1:]


DAMAGE = {
    "state/0000_0000.bin": (_flipped, "does not hold what was written there"),
    "state/0000.json": (_flipped, "does not hold what was written there"),
    "environment/metadata": (_flipped, "does not hold what was written there"),
    "metrics/metrics": (lambda content: b"", "has 0 bytes instead of 13"),
    "state/other": (lambda content: None, "is missing"),
    file_digests.NAME: (lambda content: b"{}", "names no file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_checkpoint_before_is_used(url, capsys, name):
    change, said = DAMAGE[name]
    state = _placed(1)
    _train(url, {10: 0.1, 20: 0.9}, keep_last=2)
    name = name.replace("other", "0000_0000.bin")
    _change(url, f"checkpoints/20/{name}", change)
    with pytest.raises(WorkdirError, match=f"{url}/checkpoints/20/{name} {said}"):
        _read(url, "20", _alone(state))
    capsys.readouterr()
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder, keep_last=2)
        assert checkpoints.latest() == 10
        _equal(checkpoints.restore(10, _abstract(state)), state)
        checkpoints.close()
    err = capsys.readouterr().err
    assert f"{url}/checkpoints/20/{name} {said}; it is now {url}/damaged/20-" in err
    assert "and step 10 is used" in err
    names = storage.Store(url).names()
    assert _steps(url) == {10} and not [each for each in names if "checkpoints/20" in each]
    assert [each for each in names if re.fullmatch(r"damaged/20-\d+/state/0000.json", each)]
    _train(url, {20: 0.9})
    assert _read(url, "best", _alone(state))[0] == 20


def test_all_damaged_is_refused(url):
    _train(url, {10: 0.1})
    _change(url, "checkpoints/10/state/0000_0000.bin", lambda content: content[1:])
    with pytest.raises(WorkdirError, match=f"^{url}/checkpoints: all 1 checkpoints are damaged"):
        _train(url, {20: 0.1})


def test_a_store_that_fails_while_damage_is_looked_for_is_no_damage(url, monkeypatch):
    _train(url, {10: 0.1})

    def away(self, ranges):
        raise storage.Unreachable(f"{self.url} cannot be reached now")

    with monkeypatch.context() as patch:
        patch.setattr(storage.Store, "read_ranges", away)
        with pytest.raises(UnreachableError, match="cannot be reached now"):
            _train(url, {20: 0.1})
        with pytest.raises(UnreachableError, match="cannot be reached now"):
            _read(url, "last", _alone(_placed(1)))
    assert _read(url, "last", _alone(_placed(1)))[0] == 10


def test_a_writer_without_the_lock_makes_no_checkpoint(url):
    """Another run takes the workdir when all of a checkpoint but its digests is there."""
    state = _placed(1)
    with pytest.raises(WorkdirError, match=r"taken by another run.*step 20 is not saved"):
        with remote_workdir.training(url) as folder:
            checkpoints = _opened(folder)
            checkpoints.save(10, state)
            checkpoints.wait()
            push = checkpoints._copy.push

            def late():
                push()
                storage.Store(url).write({"lock": b'{"token": "another"}'})

            checkpoints._copy.push = late
            checkpoints.save(20, state)
            checkpoints.wait()
    assert _steps(url) == {10} and storage.Store(url).names()["checkpoints/20/state/0000.json"]
    storage.Store(url).delete(["lock"])
    assert _read(url, "last", _alone(state))[0] == 10


def test_a_store_that_fails_for_a_while_is_waited_for(url, monkeypatch, capsys):
    failing = iter([storage.Unreachable("away"), storage.DataError("denied")])
    write = storage.Store.write

    def fails(self, contents):
        if any(".bin" in name for name in contents) and (error := next(failing, None)):
            raise error
        write(self, contents)

    monkeypatch.setattr(storage.Store, "write", fails)
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder)
        checkpoints.save(10, _placed(1))
        checkpoints.wait()
        checkpoints.close()
    assert _steps(url) == {10}
    assert "warning: away; it is tried again" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["FAILING_SECONDS", "FINISH_SECONDS"])
def test_a_store_that_fails_for_long_stops_the_run(url, monkeypatch, seconds):
    """Soon, if the run waits for it: to save again, or to end."""
    told = []
    waits = seconds == "FINISH_SECONDS"
    monkeypatch.setattr(remote_workdir if waits else mirror, seconds, 0.1)
    monkeypatch.setattr(store_lock, "stop", told.append)

    def away(self, contents):
        raise storage.Unreachable("away")

    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder)
        with monkeypatch.context() as patch:
            patch.setattr(storage.Store, "write", away)
            checkpoints.save(10, _placed(1))
            while not (waits or told):
                time.sleep(0.01)
            with pytest.raises(UnreachableError, match=r"^away; the checkpoint of step 10 is not"):
                checkpoints.save(20, _placed(1))
        checkpoints.close()
    assert told == ([] if waits else [f"{url}/checkpoints could not be written for long"])


def test_steps_that_others_put_into_the_store_make_a_run_delete_nothing_of_its_own(url, capsys):
    """Markers of steps to come, and a name whose digits are not ASCII."""
    forged = [f"checkpoints/{step}/digests.json" for step in (99999998, 99999999)]
    _train(url, {10: None})
    store = storage.Store(url)
    store.write({**dict.fromkeys(forged, b"{}"), "checkpoints/\u0661\u0660/state/0": b"x"})
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder, keep_last=2)
        assert "99999998 is damaged" in capsys.readouterr().err and checkpoints.latest() == 10
        store.write(dict.fromkeys(forged, b"{}"))
        for step in (20, 30):
            checkpoints.save(step, _placed(1))
        checkpoints.close()
    names = store.names()
    for step in (20, 30):
        assert f"checkpoints/{step}/digests.json" in names
    assert not [name for name in names if name.startswith("checkpoints/10/")]


def test_older_steps_stay_if_the_newest_one_lacks_files(url, monkeypatch, capsys):
    write = storage.Store.write

    def losing(self, contents):
        write(self, contents)
        if names := [name for name in contents if name.startswith("checkpoints/20/state/")]:
            self.delete(names)

    _train(url, {10: None})
    monkeypatch.setattr(storage.Store, "write", losing)
    _train(url, {20: None})
    assert "checkpoints/20 lacks files: older steps are not deleted" in capsys.readouterr().err
    assert "checkpoints/10/digests.json" in storage.Store(url).names()


def test_a_deleted_checkpoint_is_no_longer_counted(url):
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder)
        checkpoints.save(10, _placed(1), {"ssim": 0.9})
        checkpoints.wait()
        store = storage.Store(url)
        store.delete([name for name in store.names() if "checkpoints/10" in name])
        checkpoints.save(20, _placed(1), {"ssim": 0.1})
        checkpoints.close()
        assert os.listdir(checkpoints.directory) == ["20"]
    assert _steps(url) == {20}


def test_checkpoints_of_a_folder_and_of_a_store_are_read_in_either_place(url, tmp_path):
    state = _placed(2)
    local = Checkpoints(tmp_path / "run/checkpoints", "ssim")
    local.save(10, state, {"ssim": 0.1})
    local.close()
    names = [p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*")]
    files = [name for name in names if (tmp_path / "run" / name).is_file()]
    storage.Store(url).put(tmp_path / "run", files)
    _equal(_read(url, "best", _abstract(_placed(4)))[1], state)
    with remote_workdir.training(url) as folder:
        checkpoints = _opened(folder, keep_last=2)
        _equal(checkpoints.restore(10, _abstract(state)), state)
        checkpoints.save(20, state, {"ssim": 0.2})
        checkpoints.close()
    shutil.rmtree(tmp_path / "run")
    storage.Store(url).get(storage.Store(url).names(), tmp_path / "run")
    for read_only in (True, False):
        both = Checkpoints(tmp_path / "run/checkpoints", "ssim", 2, read_only)
        for step in (10, 20):
            both.check_sound(step)
            _equal(both.restore(step, _abstract(_placed(4))), state)
        assert both.resolve("best") == 20
    both.save(30, state, {"ssim": 0.1})
    both.close()
    assert sorted(os.listdir(tmp_path / "run/checkpoints")) == ["20", "30"]


@pytest.mark.slow
def test_a_store_of_google(monkeypatch, tmp_path):
    server = gcs_server.Server(commands.free_port())
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    url, state = "gs://bucket/run", _placed(4)
    store = storage.Store(url)
    assert store.create("lock", b"mine") and not store.create("lock", b"theirs")
    assert store.replace("lock", b"mine", b"ours") and not store.replace("lock", b"mine", b"")
    assert store.read("lock") == b"ours" and store.read("none") is None
    store.delete(["lock", "none"])
    _train(url, {10: 0.1, 20: 0.2}, state)
    assert _steps(url) == {20}
    _equal(_read(url, "best", _alone(state))[1], state)
    server.objects["run/checkpoints/20/state/0000_0000.bin"] = bytes(1)
    with pytest.raises(WorkdirError, match=f"^{url}/checkpoints: all 1 checkpoints are damaged"):
        _train(url, {})
    moved = {name.split("/", 3)[-1] for name in server.objects if "/damaged/" in name}
    assert {"state/0000.json", "digests.json"} <= moved and _steps(url) == set()
    server.stop()


def _index(change):
    """An index that a stranger wrote, with fitting digests."""

    def changed(content):
        index = json.loads(content)
        return json.dumps(change(index) or index).encode()

    return changed


def _piece(position, value):
    return lambda index: index["kernel"]["pieces"][0].__setitem__(position, value)


HOSTILE = {
    "no JSON of arrays": _index(lambda index: [index]),
    "bias is only here": _index(lambda index: index.pop("bias") and index),
    "more is only there": _index(lambda index: index | {"more": index["bias"]}),
    "kernel has the shape": _index(lambda i: i["kernel"].update(shape=[2**40])),
    "kernel is int32 there": _index(lambda i: i["kernel"].update(dtype="int32")),
    "kernel is not stored": _index(lambda i: i["kernel"].update(dtype="object")),
    "is in no file": _index(_piece(0, "../../secret")),
    "is in no file ": _index(_piece(1, 2**60)),
    "is in no file  ": _index(_piece(2, [1, 0, 0])),
    "kernel is not stored ": _index(_piece(2, [-1, 0, 0])),
    "kernel is not there as a whole": _index(_piece(3, [1, 4, 8])),
    "kernel is not there as a whole ": _index(
        lambda i: i["kernel"]["pieces"].append(i["kernel"]["pieces"][0])
    ),
    "0000_0000.bin does not hold": _index(_piece(4, 1)),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_an_index_that_asks_for_other_than_the_config_is_refused(url, said, tmp_path):
    state = _placed(1)
    _train(url, {10: None}, state)
    name = "checkpoints/10/state/0000.json"
    _change(url, name, HOSTILE[said])
    content = fsspec.filesystem("memory").cat_file(storage.Store(url)._path(name))

    def renew(old):
        return json.dumps(
            json.loads(old) | {"state/0000.json": store_checkpoints._digest(content)}
        ).encode()

    _change(url, f"checkpoints/10/{file_digests.NAME}", renew)
    with pytest.raises(WorkdirError, match=f"^{url}/checkpoints/10/state.*{said.strip()}"):
        _read(url, "last", _alone(state))
    storage.Store(url).get(storage.Store(url).names(), tmp_path / "run")
    copy = Checkpoints(tmp_path / "run/checkpoints", "ssim", read_only=True)
    with pytest.raises(WorkdirError, match=f"^{tmp_path}/run/checkpoints/10/state.*{said.strip()}"):
        copy.restore(10, _alone(state))


def test_indices_have_a_limit(url, tmp_path, monkeypatch):
    _train(url, {10: None})
    monkeypatch.setattr(pieces, "MAX_INDICES", 100)
    said = r"/checkpoints/10/state .*its indices have more than 100 bytes"
    with pytest.raises(WorkdirError, match=f"^{url}{said}"):
        _read(url, "last", _alone(_placed(1)))
    storage.Store(url).get(storage.Store(url).names(), tmp_path / "run")
    copy = Checkpoints(tmp_path / "run/checkpoints", "ssim", read_only=True)
    with pytest.raises(WorkdirError, match=f"^{tmp_path}/run{said}"):
        copy.restore(10, _alone(_placed(1)))


def test_pieces_that_lie_over_each_other_leave_no_holes():
    described = [["f", 0, [first], [4], zlib.crc32(bytes(16))] for first in (0, 1)]
    index = {"kernel": {"shape": [8], "dtype": "float32", "pieces": described}}
    abstract = _alone({"kernel": jnp.arange(8.0)})
    with pytest.raises(ValueError, match="kernel is not there as a whole"):
        pieces.restore(
            abstract,
            [json.dumps(index).encode()],
            {"f": 16},
            lambda ranges: [bytes(16) for _ in ranges],
        )
