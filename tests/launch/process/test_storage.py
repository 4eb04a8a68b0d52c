"""Workdirs and prepared data in an object store: memory, a folder, and a real server of S3."""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import fsspec
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.records import Records
from jax_pix2pix.errors import EXIT_RESTART, DataError, UnreachableError, WorkdirError
from jax_pix2pix.runs import file_digests, pieces
from jax_pix2pix.runs.stores import mirror as mirrors
from jax_pix2pix.runs.stores import remote_workdir, storage, store_lock
from jax_pix2pix.runs.stores.mirror import Mirror
from jax_pix2pix.runs.stores.store_checkpoints import StoreCheckpoints
from jax_pix2pix.safety import safe_files
from tests import commands
from tests.faults import runs
from tests.tiny import quickstart_data


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    return f"{request.param}://{tmp_path}/there/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_objects_are_written_read_and_deleted_by_name(url, tmp_path):
    store = storage.Store(url + "/")
    assert store.names() == {} and store.read("a") is None
    store.write({"a": b"1", "b/c": b"22"})
    (tmp_path / "here").mkdir()
    (tmp_path / "here/d").write_bytes(b"333")
    store.put(tmp_path / "here", ["d"], "b/")
    assert store.names() == {"a": 1, "b/c": 2, "b/d": 3}
    store.get({"a": 1, "b/d": 3}, tmp_path / "copy")
    assert (tmp_path / "copy/b/d").read_bytes() == b"333"
    assert store.read("b/c") == b"22"
    store.delete(["b/c", "never there"])
    assert store.names() == {"a": 1, "b/d": 3}
    with pytest.raises(DataError, match="came as 1 bytes of 2"):
        store.get({"a": 2}, tmp_path / "copy")


def test_an_object_is_created_once(url):
    store = storage.Store(url)
    assert store.create("lock", b"mine") and not store.create("lock", b"theirs")
    assert store.read("lock") == b"mine"


def test_a_kind_of_store_that_is_not_known_or_not_installed_is_refused(monkeypatch):
    with pytest.raises(DataError, match=r"ftp://.*use gs://, s3:// or a folder"):
        storage.Store("ftp://host/run")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    fsspec.filesystem.__globals__["_registry"].pop("gs", None)
    with pytest.raises(DataError, match=r"pip install -c constraints.txt -e '\.\[storage\]'"):
        storage.Store("gs://bucket/run")


def test_a_url_with_one_slash_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    match = r"^s3:/bucket/x: write s3://bucket/x for what is in a store, or \./s3:/bucket/x for a"
    data = quickstart_data("s3:/bucket/x")
    for use in (
        lambda: remote_workdir.training("s3:/bucket/x").__enter__(),
        lambda: remote_workdir.copied("s3:/bucket/x").__enter__(),
        lambda: prepared.ensure_prepared(data),
    ):
        with pytest.raises(DataError, match=match):
            use()
    assert not list(tmp_path.iterdir())
    assert not storage.is_remote("./s3:/bucket/x") and storage.is_remote("s3://bucket/x")


# A run's folder


def _log(folder, step):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}}}\n' for i in range(step)))


def _save(mirror, *steps, below="checkpoints"):
    """Saves small checkpoints. -> StoreCheckpoints."""
    checkpoints = StoreCheckpoints(mirror, below, "ssim", keep_last=2)
    for step in steps:
        checkpoints.save(step, {"weights": jnp.full(4, step)})
    checkpoints.close()
    return checkpoints


def test_scales_are_copied_and_results_are_not_read_back(tmp_path):
    url, folder = f"memory://{uuid.uuid4().hex}", tmp_path / "run"
    mirror = Mirror(url, folder)
    _log(folder / "scale_0", 3)
    (folder / "scale_0/samples").mkdir()
    (folder / "scale_0/samples/epoch_0001.png").write_bytes(b"picture")
    (folder / "wandb").mkdir()
    (folder / "wandb/run.wandb").write_bytes(b"of one start")
    (folder / "lock").write_text("of this machine")
    _save(mirror, 3, below="scale_0/checkpoints")
    names = storage.Store(url).names()
    assert {"scale_0/samples/epoch_0001.png", "wandb/run.wandb"} <= names.keys()
    assert "lock" not in names and "scale_0/checkpoints/3/state/0000.json" in names
    with remote_workdir.copied(url) as copy:
        found = sorted(os.listdir(f"{copy}/scale_0"))
        assert found == ["checkpoints", "metrics.jsonl"] and os.listdir(copy) == ["scale_0"]
        assert sorted(os.listdir(f"{copy}/scale_0/checkpoints/3")) == [
            "digests.json",
            "environment",
        ]
    with remote_workdir.copied(url, checkpoints=False) as copy:
        assert os.listdir(f"{copy}/scale_0") == ["metrics.jsonl"]


def test_what_is_evaluated_is_copied_back(tmp_path, capsys):
    url = f"memory://{uuid.uuid4().hex}"
    storage.Store(url).write({"config.json": b"{}"})
    with remote_workdir.copied(url, results="evaluation") as copy:
        os.mkdir(f"{copy}/evaluation")
        with open(f"{copy}/evaluation/test.json", "w", encoding="utf-8") as file:
            file.write("{}")
        assert remote_workdir.as_given(file.name) == f"{url}/evaluation/test.json"
        assert remote_workdir.as_given(f"{copy}2/a") == f"{copy}2/a"
    assert remote_workdir.as_given(file.name) == file.name
    assert storage.Store(url).names() == {"config.json": 2, "evaluation/test.json": 2}
    assert capsys.readouterr().out == f"uploaded: {url}/evaluation\n"
    with (
        pytest.raises(WorkdirError, match=f"{url}/a.json is bad$"),
        remote_workdir.copied(url) as copy,
    ):
        raise WorkdirError(f"{copy}/a.json is bad")
    with (
        pytest.raises(WorkdirError, match=f"{url}/none holds nothing"),
        remote_workdir.copied(f"{url}/none"),
    ):
        pass


# One run at a time


@pytest.fixture
def stopped():
    """Set when this process gets SIGTERM."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    yield event
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def quick(monkeypatch, stopped):
    monkeypatch.setattr(store_lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(store_lock, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(store_lock, "DEAD_SECONDS", 2)
    monkeypatch.setattr(mirrors, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(mirrors, "LOG_SECONDS", 0.2)


def _begin(url, machine):
    machine.mkdir(exist_ok=True)
    return remote_workdir._begin(url, machine, machine / "run")


def test_a_second_run_elsewhere_is_refused_while_the_first_lives(quick, url, tmp_path):
    first = _begin(url, tmp_path / "a")
    try:
        with pytest.raises(WorkdirError, match=f"in use by process {os.getpid()} on .*wait"):
            _begin(url, tmp_path / "b")
    finally:
        first.finish()
    _begin(url, tmp_path / "b").finish()
    assert storage.Store(url).names() == {}


def test_a_dead_run_s_lock_is_taken_after_a_while_and_on_its_machine_at_once(quick, url, tmp_path):
    _die(_begin(url, tmp_path / "a"))
    began = time.monotonic()
    _die(_begin(url, tmp_path / "a"))
    assert time.monotonic() - began < 1.5
    began = time.monotonic()
    _begin(url, tmp_path / "b").finish()
    assert time.monotonic() - began >= 2


def _die(mirror):
    for event, thread in (
        (mirror._done, mirror._copying),
        (mirror.lock._released, mirror.lock._beating),
    ):
        event.set()
        thread.join()


def test_a_run_whose_workdir_was_taken_stops_and_writes_no_more(quick, stopped, url, tmp_path):
    mirror = _begin(url, tmp_path / "a")
    storage.Store(url).write({"lock": b'{"token": "another", "host": "elsewhere"}'})
    assert stopped.wait(10)
    _log(tmp_path / "a/run", 5)
    time.sleep(0.5)
    with pytest.raises(
        WorkdirError, match=f"taken by another run: .*; what this run logged .*{tmp_path}/a/"
    ):
        mirror.finish()
    assert storage.Store(url).names().keys() == {"lock"}


@pytest.fixture
def frozen(monkeypatch, stopped):
    """A run whose threads stand still, so that a test does what they would do."""
    monkeypatch.setattr(store_lock, "DEAD_SECONDS", 2)
    monkeypatch.setattr(store_lock.StoreLock, "start", lambda lock: None)
    monkeypatch.setattr(mirrors, "LOG_SECONDS", 1000)


def test_a_frozen_run_that_wakes_after_another_took_over_writes_nothing(frozen, url, tmp_path):
    first = _begin(url, tmp_path / "a")
    folder = tmp_path / "a/run"
    _log(folder, 5)
    checkpoints = _save(first, 5)
    digests, found = {}, pieces.held({"weights": jnp.zeros(3)})
    other = {"lock": b'{"token": "another", "pid": 1, "host": "elsewhere"}'}
    storage.Store(url).write(other)
    _log(folder, 10)
    before = storage.Store(url).names()
    uses = {
        "push": first.push,
        "files": first.push_files,
        "pieces": lambda: checkpoints._write(10, found, digests),
        "checkpoint": lambda: checkpoints._commit(10, {}, None),
        "deletion": lambda: checkpoints._delete(5, {file_digests.NAME}),
        "damage": lambda: checkpoints._move(5, "5-1"),
        "beat": first.lock._beat_once,
        "release": first.lock.release,
        "finish": first.finish,
    }
    for name, use in uses.items():
        with pytest.raises(WorkdirError, match=f"{url} was taken by another run.*{folder}"):
            use()
        assert storage.Store(url).names() == before, name
    storage.Store(url).delete(["lock"])  # the other run has ended: its workdir is not this run's
    for use in uses.values():
        with pytest.raises(WorkdirError, match="was taken by another run"):
            use()
    assert storage.Store(url).names().keys() == before.keys() - {"lock"}


def test_the_logs_of_a_further_process_follow_the_lock(frozen, url, tmp_path):
    first = _begin(url, tmp_path / "a")

    def further(taken):
        own = Mirror(url, tmp_path / "b/run_1")
        own.lock.follow(first.lock.token)
        own.pull_anew(tmp_path)
        if taken:
            storage.Store(url).write({"lock": b'{"token": "another"}'})
        (tmp_path / "b/run_1/logs").mkdir(exist_ok=True)
        (tmp_path / "b/run_1/logs/process_0001.log").write_text("written")
        own.push_logs(1)
        return "logs/process_0001.log" in storage.Store(url).names()

    assert further(taken=False)
    storage.Store(url).delete(["logs/process_0001.log"])
    assert not further(taken=True)
    first._done.set()


def test_a_lock_that_vanished_is_made_again_unless_a_run_may_have_been_there(
    frozen, monkeypatch, url, tmp_path, capsys
):
    mirror = _begin(url, tmp_path / "a")
    there = storage.Store(url)
    there.delete(["lock"])
    mirror.lock._beat_once()
    assert json.loads(there.read("lock"))["token"] == mirror.lock._holder["token"]
    assert capsys.readouterr().err == f"warning: the lock of {url} was gone, and is made again\n"
    there.delete(["lock"])
    asleep = time.time() + 3
    monkeypatch.setattr(time, "time", lambda: asleep)
    for use in (mirror.lock._beat_once, mirror.push, mirror.finish):
        with pytest.raises(UnreachableError) as gone:
            use()
        assert str(gone.value) == (
            f"the lock of {url} is gone, and another run may have been there since this one last "
            f"saw it; what this run logged is in {tmp_path}/a/run: start the same command again"
        )
    assert there.names() == {} and (tmp_path / "a/run").is_dir()


def test_a_lock_that_says_nothing_is_not_process_none(frozen, monkeypatch, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    for content in (b"", b"[]", b"{}", b'{"pid', b"[" * 100_000, b"\xff"):
        storage.Store(url).write({"lock": content})
        lock = store_lock.StoreLock(storage.Store(url), tmp_path)
        assert "by another run, whose lock does not say which" in lock._in_use(
            store_lock._holder(storage.Store(url).read("lock"))
        )
    storage.Store(url).write({"lock": b"0" * (safe_files.MAX_JSON + 1)})
    with pytest.raises(WorkdirError, match=f"{url}/lock is above the limit of .* bytes: delete"):
        _begin(url, tmp_path / "a")


def test_an_emptied_store_gets_all_files_again(quick, url, tmp_path, capsys):
    mirror = _begin(url, tmp_path / "a")
    folder, there = tmp_path / "a/run", storage.Store(url)
    _log(folder, 10)
    mirror.push()
    whole = there.names().keys()
    assert {"lock", "metrics.jsonl"} <= whole
    there.delete(sorted(whole, key=lambda name: name != "lock"))
    deadline = time.monotonic() + 20
    while there.names().keys() != whole:
        assert time.monotonic() < deadline, there.names()
        time.sleep(0.05)
    there.delete(["metrics.jsonl"])  # at last all is looked through
    mirror.finish()
    assert there.names().keys() == whole - {"lock"}
    assert "is made again" in capsys.readouterr().err


def test_what_a_killed_run_could_not_send_is_kept(frozen, url, tmp_path, capsys):
    def start():
        mirror = _begin(url, tmp_path / "a")
        mirror._done.set()
        err = capsys.readouterr().err
        return mirror, err, sorted((tmp_path / "a").glob("run_kept_*"))

    folder = tmp_path / "a/run"
    mirror, _, kept = start()
    assert not kept
    _log(folder, 10)
    _save(mirror, 10)
    _log(folder, 12)  # lines that the next start makes again
    mirror, err, kept = start()
    assert not err and not kept and len((folder / "metrics.jsonl").read_text().splitlines()) == 10
    (folder / "training_log.txt").write_text("a line")
    (folder / "stacks_0_1.txt").write_text("of the watchdog")
    mirror, err, kept = start()
    (aside,) = kept
    assert f"lacks (training_log.txt): it is kept in {aside};" in err
    assert (aside / "training_log.txt").exists() and (aside / "metrics.jsonl").exists()
    assert sorted(os.listdir(folder)) == ["checkpoints", "metrics.jsonl", "stacks_0_1.txt"]
    assert os.listdir(folder / "checkpoints") == ["10"]


def test_no_link_in_the_local_copies_is_followed(quick, tmp_path):
    """XDG_CACHE_HOME may be a folder in which others can write."""
    url = f"memory://{uuid.uuid4().hex}"
    storage.Store(url).write({"metrics.jsonl": b"theirs", "logs/a": b"theirs"})
    outside = tmp_path / "outside"
    (outside / "run/logs").mkdir(parents=True)
    for name in ("metrics.jsonl", "run/metrics.jsonl", "run/logs/a", "lock", "identity"):
        (outside / name).write_text("mine")
    cache = storage.cache_folder(url)
    cache.parent.mkdir(parents=True)

    def refused(link, target):
        link.symlink_to(target)
        with pytest.raises((OSError, WorkdirError), match=f"^{link} is a link, which may lead any"):
            with remote_workdir.training(url):
                pass
        link.unlink()

    refused(cache, outside)
    cache.mkdir()
    refused(cache / "identity", outside / "identity")
    refused(cache / "run", outside / "run")
    (cache / "run").mkdir()
    (cache / "run/link").symlink_to(outside)  # as somebody left it: it is removed
    with remote_workdir.training(url) as folder:
        assert sorted(os.listdir(folder)) == ["logs", "metrics.jsonl"]
    data = quickstart_data(f"{url}/data")
    storage.cache_folder(data.data_dir).symlink_to(outside)
    with pytest.raises(OSError, match=f"^{storage.cache_folder(data.data_dir)} is a link"):
        prepared.fetch(data)
    (tmp_path / "copy/logs").mkdir(parents=True)
    for name, target in (("metrics.jsonl", "metrics.jsonl"), ("logs/a", "run/logs/a")):
        (tmp_path / "copy" / name).symlink_to(outside / target)
        with pytest.raises(OSError, match=f"copy/{name} is a link"):
            storage.Store(url).get({name: 6}, tmp_path / "copy")
        (tmp_path / "copy" / name).unlink()
    found = [path.read_text() for path in sorted(outside.rglob("*")) if path.is_file()]
    assert found == ["mine"] * 5


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(tmp_path, monkeypatch):
    url = f"memory://{uuid.uuid4().hex}"
    store = storage.Store(url)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DataError, match=rf"^{url}: {2 * free + 10**15:,} bytes are to be copied"):
        store.get({"a": free + 10**15, "b": free}, tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_a_run_whose_store_fails_for_long_stops(quick, stopped, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mirrors, "FAILING_SECONDS", 1)
    url = f"memory://{uuid.uuid4().hex}"
    mirror = _begin(url, tmp_path / "a")

    class Full(storage.Store):
        def write(self, contents):
            with self._asked():
                raise PermissionError("no")

    mirror.store = Full(url)
    _log(tmp_path / "a/run", 5)
    assert stopped.wait(10)
    with pytest.raises(WorkdirError, match=f"the run's logs are in {tmp_path}/a/run"):
        mirror.finish()
    assert f"warning: {url} cannot be used (PermissionError: no)" in capsys.readouterr().err


def test_a_run_is_copied_while_it_goes_on_and_at_its_end(quick, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    with remote_workdir.training(url) as directory:
        folder = storage.cache_folder(url) / "run"
        assert directory == str(folder)
        _log(folder, 10)
        deadline = time.monotonic() + 10
        while not storage.Store(url).read("metrics.jsonl"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(WorkdirError, match=f"{url} is in use"), remote_workdir.training(url):
            pass
        _log(folder, 12)
    assert not folder.exists()
    assert storage.Store(url).read("metrics.jsonl").count(b"\n") == 12
    assert "lock" not in storage.Store(url).names()


# Prepared data


def test_prepared_data_of_a_store_is_copied_and_its_copy_renewed(tmp_path, monkeypatch):
    url = f"memory://{uuid.uuid4().hex}"
    data = quickstart_data(url)
    directory = prepared.ensure_prepared(data)
    names = storage.Store(url).names()
    assert sum(name.endswith("dataset_info.json") for name in names) == 1

    def elsewhere(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(storage, "_here", set())

    elsewhere("second")
    data.sample = ""  # so that nothing is prepared here
    copy = prepared.ensure_prepared(data)
    assert copy != directory and copy.is_relative_to(tmp_path / "second")
    for path in directory.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes()
    index = np.arange(4)
    ours, theirs = (Records(folder, data, "train").load(index) for folder in (directory, copy))
    np.testing.assert_array_equal(ours["target"], theirs["target"])

    record = storage.url_of(url, copy) + "/preparation.json"
    changed = json.loads(fsspec.filesystem("memory").cat_file(record)) | {"notes": ["anew"]}
    fsspec.filesystem("memory").pipe_file(record, json.dumps(changed).encode())
    elsewhere("second")
    assert json.loads((prepared.ensure_prepared(data) / "preparation.json").read_text()) == changed

    last = next(name for name in names if name.endswith("dataset_info.json"))
    storage.Store(url).delete([last])  # as if the upload had been cut short
    elsewhere("second")
    with pytest.raises(DataError, match=f"{url}/lidc_masks/.* does not exist: run"):
        prepared.ensure_prepared(data)


# Commands, and a server


def test_an_object_is_replaced_only_if_it_is_as_it_was_read(url):
    store = storage.Store(url)
    assert not store.replace("lock", b"mine", b"mine again") and store.names() == {}
    store.write({"lock": b"mine"})
    assert store.replace("lock", b"mine", b"mine again") and store.read("lock") == b"mine again"
    assert not store.replace("lock", b"mine", b"again") and store.read("lock") == b"mine again"


def test_commands_refuse_other_stores_in_one_line(tmp_path):
    _, err = commands.run("launch.goodput", "--workdir=ftp://host/run", code=1)
    assert "ftp://host/run: no store of the kind ftp:// is known" in commands.error_line(err)
    submit = ["local", "--config=configs/lidc_mask2ct.py", "--workdir=s3:/bucket/run"]
    _, err = commands.run("launch.submit", *submit, code=1)
    assert "s3:/bucket/run: write s3://bucket/run" in commands.error_line(err)
    _, err = commands.run("launch.predict", "--workdir=x", "--input=s3://b/i", "--output=o", code=1)
    assert "--input=s3://b/i: use a local path" in commands.error_line(err)


BUCKET = "s3://bucket"


def _variables(port):
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Server:
    """A server of S3 with a bucket, in this process, whose memory keeps it while it is stopped."""

    def __init__(self):
        self.port = commands.free_port()

    def start(self):
        import boto3
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        options = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        options |= {"endpoint_url": f"http://127.0.0.1:{self.port}", "region_name": "us-east-1"}
        boto3.client("s3", **options).create_bucket(Bucket="bucket")

    def stop(self):
        self._server.stop()
        self._server._server.server_close()  # so that connections are refused


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """Environment variables for a server of S3 in this process, with one bucket."""
    server = Server()
    server.start()
    variables = _variables(server.port) | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables
    server.stop()


@pytest.fixture
def own(monkeypatch):
    """A server of S3 for this test to start and stop, with fewer retries by packages."""
    server = Server()
    for name, value in (_variables(server.port) | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # connections with other variables
    monkeypatch.setattr(storage, "WAIT_SECONDS", 0)
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.2)
    yield server
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (503, "SlowDown", True),
        (500, "InternalError", True),
        (429, "TooManyRequests", True),
        (403, "AccessDenied", False),
        (404, "NoSuchBucket", False),
    ],
)
def test_what_a_server_answers_for_a_moment_is_told_from_what_it_means(own, status, code, passes):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"<Error><Code>{code}</Code><Message>told so</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", own.port), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match="told so") as refused:
            storage.Store(f"{BUCKET}/run").names()
        server.shutdown()
    assert isinstance(refused.value, storage.Unreachable) == passes


HOSTILE = ("/ABS/PATH", "../x", "a//b", "b\\c", "C:/x", "config.json/a")


def test_hostile_names_of_a_server_write_nothing(own, tmp_path, monkeypatch):
    own.start()
    import boto3

    client = boto3.client("s3")
    for name in HOSTILE:
        absolute = name.replace("/ABS/PATH", f"{tmp_path}/outside")
        run = f"runs/{HOSTILE.index(name)}"
        for key in ("config.json", absolute):
            client.put_object(Bucket="bucket", Key=f"{run}/{key}", Body=b"theirs")
        for use in (remote_workdir.copied, remote_workdir.training):
            with pytest.raises(WorkdirError, match=f"^{BUCKET}/{run}: .*: delete that object, or"):
                use(f"{BUCKET}/{run}").__enter__()
    data = quickstart_data(f"{BUCKET}/hostile")
    data.sample = ""
    directory = prepared.prepared_directory(
        data.dataset, data.data_dir, **prepared.options_of(data)
    ).relative_to(storage.cache_folder(data.data_dir))
    names = ("preparation.json", "dataset_info.json", f"{tmp_path}/outside")
    for name in names:
        client.put_object(Bucket="bucket", Key=f"hostile/{directory}/{name}", Body=b"{}")
    with pytest.raises(
        DataError, match=f"^{BUCKET}/hostile/{directory}: the name '{tmp_path}/outside"
    ):
        prepared.ensure_prepared(data)
    own.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".json"]


def test_s3_itself_sees_that_a_lock_is_not_overwritten(own, monkeypatch):
    """Another run takes the lock between the look at it and the sign of life."""
    own.start()
    store = storage.Store(f"{BUCKET}/conditional")
    store.write({"lock": b"mine"})
    cat = store._fs.cat_file

    def cat_late(path):
        content = cat(path)
        storage.Store(f"{BUCKET}/conditional").write({"lock": b"theirs"})
        return content

    monkeypatch.setattr(store._fs, "cat_file", cat_late)
    assert not store.replace("lock", b"mine", b"mine again")
    monkeypatch.undo()
    assert store.read("lock") == b"theirs"
    own.stop()


def test_a_store_that_nobody_answers_for_is_unreachable(own, monkeypatch):
    with pytest.raises(storage.Unreachable, match=r"run cannot be reached now \(EndpointConn"):
        storage.Store(f"{BUCKET}/run").names()
    monkeypatch.setattr(storage, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", own.port)):
        with pytest.raises(storage.Unreachable, match=r"no answer in 0\.5 s"):
            storage.Store(f"{BUCKET}/run").names()


@pytest.mark.slow
def test_a_store_that_comes_late_is_waited_for(own, monkeypatch, capsys):
    monkeypatch.setattr(storage, "WAIT_SECONDS", 60)
    late = threading.Timer(3, own.start)
    late.start()
    with pytest.raises(DataError, match="bucket does not exist") as refused:
        storage.Store("s3://never-made/run").names()
    late.join()
    own.stop()
    assert not isinstance(refused.value, storage.Unreachable)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("waiting up to 60 s for it") and "never-made/run cannot be reached" in line


def test_credentials_may_come_late_to_a_pod(own, monkeypatch, tmp_path):
    own.start()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(storage, "WAIT_SECONDS", 60)
    began = time.monotonic()
    with pytest.raises(DataError, match="credentials") as refused:
        storage.Store(f"{BUCKET}/run").names()
    assert time.monotonic() - began < 20 and not isinstance(refused.value, storage.Unreachable)

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    text = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
    late = threading.Timer(2, (tmp_path / "credentials").write_text, [text])
    late.start()
    assert storage.Store(f"{BUCKET}/run").names() == {}
    late.join()
    own.stop()


def test_the_last_copy_is_tried_until_the_store_is_back(own, quick, monkeypatch, tmp_path, capsys):
    own.start()
    url = f"{BUCKET}/last"
    mirror = _begin(url, tmp_path / "a")
    own.stop()
    _log(tmp_path / "a/run", 5)
    with pytest.raises(UnreachableError, match=f"the run's logs are in {tmp_path}/a/run"):
        mirror.finish(0.1)
    assert (tmp_path / "a/run/metrics.jsonl").exists()
    own.start()
    assert "lock" in storage.Store(url).names()
    mirror = _begin(url, tmp_path / "a")
    _log(tmp_path / "a/run", 5)
    own.stop()
    late = threading.Timer(3, own.start)
    late.start()
    mirror.finish(60)
    late.join()
    assert storage.Store(url).names().keys() == {"metrics.jsonl"}
    own.stop()
    assert "the last copy is tried for 60 s" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_outlives_its_store(own, sample_data_dir, tmp_path):
    """The store is away at the start, at SIGTERM and the next start: exit 42, then it resumes."""
    url = f"{BUCKET}/outlived"
    variables = _variables(own.port) | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = commands.tiny_training(url, sample_data_dir, epochs=4)
    impatient = {"module": "tests.faults.impatient", "variables": variables}
    with runs.started([*arguments, "--finish_seconds=1"], **impatient) as running:
        while "waiting up to 60" not in (line := running[0].stdout.readline()):
            assert line
        own.start()
        saved = f"checkpoints/10/{file_digests.NAME}"
        runs.wait_for(lambda: time.sleep(0.3) or saved in storage.Store(url).names(), running)
        own.stop()
        running[0].send_signal(signal.SIGTERM)
        ((_, err),) = runs.finish(running, EXIT_RESTART)
    (last,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert f"{url} cannot be reached now" in last and "is not saved" in last
    ((_, err),) = runs.train([*arguments, "--wait_seconds=1"], code=EXIT_RESTART, **impatient)
    assert f"error: {url} cannot be reached now" in commands.error_line(err)
    own.start()
    runs.train(arguments, variables=variables)
    names = storage.Store(url).names()
    assert "lock" not in names and f"checkpoints/40/{file_digests.NAME}" in names
    own.stop()


@pytest.mark.slow
def test_a_frozen_process_that_wakes_after_another_has_trained_writes_nothing(
    own, sample_data_dir, tmp_path
):
    own.start()
    url = f"{BUCKET}/frozen"
    arguments = commands.tiny_training(url, sample_data_dir, epochs=300)
    arguments += ["--dead_seconds=3"]
    pause = ["--pause_at=20", "--pause_seconds=20"]  # of the first, while only digests are missing

    def started(name, more=()):
        variables = _variables(own.port) | {"XDG_CACHE_HOME": str(tmp_path / name)}
        return runs.started(
            [*arguments, *more], module="tests.faults.impatient", variables=variables
        )

    def steps():
        found = re.findall(rf"checkpoints/(\d+)/{file_digests.NAME}", " ".join(store.names()))
        return set(map(int, found))

    store = storage.Store(url)
    with started("first", pause) as first:
        written = "checkpoints/20/state/0000.json"
        runs.wait_for(lambda: time.sleep(0.3) or written in store.names(), first)
        first[0].send_signal(signal.SIGSTOP)
        old = max(steps())
        with started("second") as second:
            runs.wait_for(lambda: time.sleep(0.3) or max(steps()) > old, second)
            second[0].send_signal(signal.SIGTERM)
            runs.finish(second, EXIT_RESTART)
        before = store._fs.find(store._root, detail=True)
        assert f"{store._root}/lock" not in before
        first[0].send_signal(signal.SIGCONT)
        ((_, err),) = runs.finish(first, EXIT_RESTART)
    (last,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert f"the lock of {url} is gone, and another run may have been there" in last
    (folder,) = (tmp_path / "first").glob("jax_pix2pix/*/run")
    assert f"what this run logged is in {folder}: start" in last
    assert (folder / "config.json").exists()
    after = store._fs.find(store._root, detail=True)
    assert {name: x["ETag"] for name, x in before.items()} == {
        name: x["ETag"] for name, x in after.items()
    }
    own.stop()


@pytest.mark.slow
def test_a_run_in_s3_killed_and_resumed_equals_one_in_a_folder(s3, tmp_path):
    data = quickstart_data(f"{BUCKET}/data")
    source = prepared.SAMPLES / data.sample
    config = [
        "--config=configs/lidc_mask2ct.py:quickstart",
        f"--config.data.data_dir={BUCKET}/data",
        f"--source={source}",
    ]
    out, _ = commands.run("launch.prepare", *config, variables=s3)
    assert f"prepared: {BUCKET}/data/lidc_masks/" in out

    def arguments(workdir, data_dir):
        return commands.tiny_training(workdir, data_dir, epochs=4)

    run = f"{BUCKET}/runs/killed"
    store = fsspec.filesystem("s3", use_listings_cache=False)
    second = s3 | {"XDG_CACHE_HOME": str(tmp_path / "second")}
    paused = [*arguments(run, f"{BUCKET}/data"), "--pause_at=20"]
    with runs.started(paused, module="tests.faults.impatient", variables=s3) as running:
        written = f"{run}/checkpoints/20/state/0000.json"  # all but the digests
        runs.wait_for(lambda: time.sleep(0.3) or store.exists(written), running)
        running[0].kill()
        runs.finish(running, -signal.SIGKILL)
    assert not list(Path(s3["XDG_CACHE_HOME"]).rglob("state"))
    assert not store.exists(f"{run}/checkpoints/20/{file_digests.NAME}")
    assert store.exists(f"{run}/checkpoints/10/{file_digests.NAME}")
    assert store.exists(f"{run}/lock")

    # The killed run's local files do not matter. Another machine would wait for a sign of life.
    for left in Path(s3["XDG_CACHE_HOME"]).glob("jax_pix2pix/*/run/*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    out, err = commands.run("launch.train", *arguments(run, f"{BUCKET}/data"), variables=s3)
    assert f"warning: {run}/checkpoints/20 is not used: its upload goes on or broke off" in err
    assert f"pictures: {run}/samples/epoch_0004.png\n" in out and f"uploaded: {run}\n" in out
    assert not store.exists(f"{run}/lock")
    commands.run("launch.train", *arguments(tmp_path / "whole", tmp_path / "data"))
    store.get(run, str(tmp_path / "copy"), recursive=True)
    runs.assert_equal(tmp_path / "whole", tmp_path / "copy")
    first, resumed = (line["step"] for line in commands.metrics(tmp_path / "copy", "start"))
    assert first == 0 and resumed == 10
    for name in ("loss_curve.png", "samples/epoch_0004.png", "goodput.json", "training_log.txt"):
        assert (tmp_path / "copy" / name).stat().st_size
    assert len(list((tmp_path / "copy/tensorboard").iterdir())) >= 1

    out, _ = commands.run("launch.train", *arguments(run, f"{BUCKET}/data"), variables=second)
    assert "already finished: the checkpoint of step 40" in out
    evaluate = "launch.evaluate", f"--workdir={run}"
    _, err = commands.run(*evaluate, code=1, variables=second)
    assert f"config.json is in a store, so the data that it names, {BUCKET}/data, are not" in err
    out, _ = commands.run(*evaluate, f"--data={BUCKET}/data", variables=second)
    assert f"all values: {run}/evaluation/test.json\n" in out
    assert f"worst: {run}/evaluation/test.png\n" in out
    scores = json.loads(store.cat_file(f"{run}/evaluation/test.json"))
    assert scores["step"] <= 40
    out, _ = commands.run("launch.goodput", f"--workdir={run}", variables=second)
    assert "in all" in out and out.count("steps ") >= 2
    masks = source / "test"
    commands.run(
        "launch.predict", f"--workdir={run}", f"--input={masks}", f"--output={tmp_path / 'made'}",
        variables=second,
    )  # fmt: skip
    assert list((tmp_path / "made").rglob("*.png"))


@pytest.mark.slow
def test_hosts_that_share_only_a_store_train_a_state_that_none_has_whole(
    s3, sample_data_dir, tmp_path
):
    """Two are killed while they save, and resumed, with parameters split over both."""
    url = f"{BUCKET}/runs/split"
    fields = {"checkpoint_every_steps": 4, "epochs": 2, "checkpoint_every_epochs": 2, "fsdp": 2}
    arguments = commands.tiny_training(url, sample_data_dir, **fields)
    apart = [{"variables": s3 | {"XDG_CACHE_HOME": str(tmp_path / name)}} for name in "ab"]
    paused = {"each": apart, "module": "tests.faults.impatient"}
    with runs.started([*arguments, "--pause_at=8"], 2, **paused) as running:
        written = {f"checkpoints/8/state/000{process}.json" for process in range(2)}
        names = storage.Store(url).names
        runs.wait_for(lambda: time.sleep(0.3) or written <= names().keys(), running)
        for process in running:
            process.kill()
        runs.finish(running, -signal.SIGKILL)
    assert not list(tmp_path.glob("[ab]/**/state"))
    runs.train(arguments, 2, each=apart)
    runs.train(commands.tiny_training(tmp_path / "whole", sample_data_dir, **fields), 2)
    storage.Store(url).get(names(), tmp_path / "there")
    runs.assert_equal(tmp_path / "whole", tmp_path / "there")
    assert [line["step"] for line in commands.metrics(tmp_path / "there", "start")] == [0, 4]
    assert "lock" not in names() and "logs/process_0001.log" in names()
    assert len(runs.process_log(tmp_path / "there", 1).split("start on ")) == 3
    assert not list(tmp_path.glob("[ab]/jax_pix2pix/*/run*"))
    (part,) = (tmp_path / "there/checkpoints/20/state").glob("0001_*.bin")
    assert part.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.long
def test_a_pyramids_processes_with_a_copy_each_train_what_those_with_one_do(tmp_path):
    """Process 1 has no local file of the coarser scale, with which the finer one begins."""
    fields = {
        "data.data_dir": tmp_path / "data",
        "data.batch_size": 2,
        "data.image_size": 24,
        "data.depth": 4,
        "data.repeat": 4,
        "pyramid.min_size": 16,
        "pyramid.max_size": 24,
        "pyramid.factor": 1.5,
        "pyramid.discriminator_updates": 1,
        "pyramid.generator_updates": 1,
        "generator.width": 4,
        "discriminator.width": 4,
        "loss.segmentation_weight": 0.0,
        "epochs": 1,
        "log_every_steps": 1,
        "sample_every_epochs": 100,
    }
    config = ["--config=configs/ct_pyramid_2d.py:quickstart"]
    config += [f"--config.{name}={value}" for name, value in fields.items()]
    apart = [{"variables": {"XDG_CACHE_HOME": str(tmp_path / name)}} for name in "ab"]
    runs.train([*config, f"--workdir=file://{tmp_path}/there"], 2, each=apart)
    runs.train([*config, f"--workdir={tmp_path}/whole"], 2)
    for scale in ("scale_0", "scale_1"):
        whole, there = (tmp_path / name / scale for name in ("whole", "there"))
        ours, theirs = runs.state(whole), runs.state(there)
        assert ours.keys() == theirs.keys() and any("params" in name for name in ours)
        for name, x in ours.items():
            np.testing.assert_array_equal(x, theirs[name], err_msg=name, strict=True)
        assert commands.metrics(whole) == commands.metrics(there) != []


@pytest.mark.slow
def test_what_cannot_be_used_is_one_line(s3, sample_data_dir):
    arguments = commands.tiny_training("s3://no-such-bucket/run", sample_data_dir)
    _, err = commands.run("launch.train", *arguments, code=1, variables=s3)
    line = commands.error_line(err)
    assert "s3://no-such-bucket/run: The specified bucket does not exist: is the name" in line
    without = s3 | {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    _, err = commands.run("launch.goodput", f"--workdir={BUCKET}/run", code=1, variables=without)
    line = commands.error_line(err)
    assert f"{BUCKET}/run cannot be used" in line and "redentials" in line
