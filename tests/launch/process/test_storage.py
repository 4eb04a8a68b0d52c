"""Workdirs and prepared data in an object store: memory, a folder, and a real server of S3."""

import http.server
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from input_pipeline import prepared
from input_pipeline.records import Records
from jax_pix2pix.errors import EXIT_RESTART, DataError, UnreachableError, WorkdirError
from jax_pix2pix.runs import file_digests, remote_workdir, storage
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


def test_names_that_lead_out_of_a_folder_are_left_alone():
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe({f"{url}/{name}": b"1" for name in ("a", "../b", "c/../d")})
    assert len(fsspec.filesystem("memory").find(url)) == 3
    assert storage.Store(url).names() == {"a": 1}


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


def _checkpoint(folder, step, content=b"weights"):
    path = folder / "checkpoints" / str(step)
    (path / "state").mkdir(parents=True)
    (path / "state" / "array").write_bytes(content * step)
    file_digests.write(path)


def _log(folder, step):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}}}\n' for i in range(step)))


def _copy(url, folder):
    """Pulls the run as a start on another machine does. -> steps of its checkpoints."""
    remote_workdir._Mirror(url, folder).pull()
    found = sorted(int(path.name) for path in folder.glob("checkpoints/*"))
    for step in found:
        assert not file_digests.damage(folder / "checkpoints" / str(step))
    return found


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

    def put(self, folder, names, below=""):
        for name in names:
            self._count()
            super().put(folder, [name], below)

    def delete(self, names):
        for name in names:
            self._count()
            super().delete([name])


def test_a_run_killed_at_any_object_leaves_a_whole_checkpoint_and_logs_as_new(tmp_path):
    seen = []
    for left in range(100):
        url, folder = f"memory://{uuid.uuid4().hex}", tmp_path / f"run{left}"
        mirror = remote_workdir._Mirror(url, folder)
        _log(folder, 10)
        _checkpoint(folder, 10)
        mirror.push()
        _log(folder, 20)
        _checkpoint(folder, 20)
        shutil.rmtree(folder / "checkpoints/10")
        mirror.store = Dying(url)
        mirror.store.left = left
        try:
            mirror.push()
            killed = False
        except Killed:
            killed = True
        copy = tmp_path / f"copy{left}"
        seen.append(_copy(url, copy))
        assert len((copy / "metrics.jsonl").read_text().splitlines()) >= seen[-1][-1]
        if not killed:
            break
        # The next start resumes from there, and deletes incomplete checkpoints.
        again = remote_workdir._Mirror(url, tmp_path / f"again{left}")
        again.pull()
        again.push()
        parts = {name.split("/")[1] for name in again.store.names() if "checkpoints/" in name}
        assert sorted(map(int, parts)) == seen[-1]
    assert [step for i, step in enumerate(seen) if step not in seen[:i]] == [[10], [10, 20], [20]]


def test_a_checkpoint_that_the_run_deletes_meanwhile_is_copied_whole(tmp_path):
    url, folder = f"memory://{uuid.uuid4().hex}", tmp_path / "run"

    class Slow(storage.Store):
        def put(self, folder_, names, below=""):
            shutil.rmtree(folder / "checkpoints/10", ignore_errors=True)
            super().put(folder_, names, below)

    _checkpoint(folder, 10)
    mirror = remote_workdir._Mirror(url, folder)
    mirror.store = Slow(url)
    mirror.push()
    assert _copy(url, tmp_path / "copy") == [10]


def test_a_checkpoint_saved_anew_replaces_the_damaged_one(tmp_path):
    url, folder = f"memory://{uuid.uuid4().hex}", tmp_path / "run"
    _checkpoint(folder, 10, b"damaged")
    mirror = remote_workdir._Mirror(url, folder)
    mirror.push()
    shutil.rmtree(folder / "checkpoints/10")
    _checkpoint(folder, 10)
    mirror.push()
    assert _copy(url, tmp_path / "copy") == [10]
    assert mirror.store.read("checkpoints/10/state/array") == b"weights" * 10


def test_scales_are_copied_and_results_are_not_read_back(tmp_path):
    url, folder = f"memory://{uuid.uuid4().hex}", tmp_path / "run"
    _log(folder / "scale_0", 3)
    _checkpoint(folder / "scale_0", 3)
    (folder / "scale_0/samples").mkdir()
    (folder / "scale_0/samples/epoch_0001.png").write_bytes(b"picture")
    (folder / "wandb").mkdir()
    (folder / "wandb/run.wandb").write_bytes(b"of one start")
    (folder / "lock").write_text("of this machine")
    remote_workdir._Mirror(url, folder).push()
    names = storage.Store(url).names()
    assert {"scale_0/samples/epoch_0001.png", "wandb/run.wandb"} <= names.keys()
    assert "lock" not in names
    with remote_workdir.copied(url) as copy:
        found = sorted(os.listdir(f"{copy}/scale_0"))
        assert found == ["checkpoints", "metrics.jsonl"] and os.listdir(copy) == ["scale_0"]
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
    monkeypatch.setattr(remote_workdir, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(remote_workdir, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(remote_workdir, "LOG_SECONDS", 0.2)
    monkeypatch.setattr(remote_workdir, "DEAD_SECONDS", 2)


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
        (mirror._released, mirror._beating),
    ):
        event.set()
        thread.join()


def test_a_run_whose_workdir_was_taken_stops_and_writes_no_more(quick, stopped, url, tmp_path):
    mirror = _begin(url, tmp_path / "a")
    storage.Store(url).write({"lock": b'{"token": "another", "host": "elsewhere"}'})
    assert stopped.wait(10)
    _log(tmp_path / "a/run", 5)
    time.sleep(0.5)
    with pytest.raises(WorkdirError, match="was taken by another run"):
        mirror.finish()
    assert storage.Store(url).names().keys() == {"lock"}


def test_a_run_whose_store_fails_for_long_stops(quick, stopped, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(remote_workdir, "FAILING_SECONDS", 1)
    url = f"memory://{uuid.uuid4().hex}"
    mirror = _begin(url, tmp_path / "a")

    class Full(storage.Store):
        def write(self, contents):
            with self._asked():
                raise PermissionError("no")

    mirror.store = Full(url)
    _log(tmp_path / "a/run", 5)
    assert stopped.wait(10)
    with pytest.raises(WorkdirError, match=f"all of the run is in {tmp_path}/a/run"):
        mirror.finish()
    assert f"warning: {url} cannot be used (PermissionError: no)" in capsys.readouterr().err


def test_a_run_is_copied_while_it_goes_on_and_at_its_end(quick, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    with remote_workdir.training(url) as directory:
        folder = storage.cache_folder(url) / "run"
        assert directory == str(folder)
        _log(folder, 10)
        _checkpoint(folder, 10)
        deadline = time.monotonic() + 10
        while not storage.Store(url).read(f"checkpoints/10/{file_digests.NAME}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _copy(url, tmp_path / "copy") == [10]
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
    with pytest.raises(UnreachableError, match=f"all of the run is in {tmp_path}/a/run"):
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
    assert f"{url} cannot be reached now" in last and "all of the run is in" in last
    ((_, err),) = runs.train([*arguments, "--wait_seconds=1"], code=EXIT_RESTART, **impatient)
    assert f"error: {url} cannot be reached now" in commands.error_line(err)
    own.start()
    runs.train(arguments, variables=variables)
    names = storage.Store(url).names()
    assert "lock" not in names and f"checkpoints/40/{file_digests.NAME}" in names
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
    with runs.started(arguments(run, f"{BUCKET}/data"), variables=s3) as running:
        saved = f"{run}/checkpoints/10/{file_digests.NAME}"
        runs.wait_for(lambda: time.sleep(0.3) or store.exists(saved), running)
        running[0].kill()
        runs.finish(running, -signal.SIGKILL)
    assert not store.exists(f"{run}/checkpoints/40")
    assert store.exists(f"{run}/lock")

    # The killed run's local files do not matter. Another machine would wait for a sign of life.
    for left in Path(s3["XDG_CACHE_HOME"]).glob("jax_pix2pix/*/run/*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    out, _ = commands.run("launch.train", *arguments(run, f"{BUCKET}/data"), variables=s3)
    assert f"pictures: {run}/samples/epoch_0004.png\n" in out and f"uploaded: {run}\n" in out
    assert not store.exists(f"{run}/lock")
    commands.run("launch.train", *arguments(tmp_path / "whole", tmp_path / "data"))
    store.get(run, str(tmp_path / "copy"), recursive=True)
    runs.assert_equal(tmp_path / "whole", tmp_path / "copy")
    first, resumed = (line["step"] for line in commands.metrics(tmp_path / "copy", "start"))
    assert first == 0 and resumed >= 10
    for name in ("loss_curve.png", "samples/epoch_0004.png", "goodput.json", "training_log.txt"):
        assert (tmp_path / "copy" / name).stat().st_size
    assert len(list((tmp_path / "copy/tensorboard").iterdir())) >= 1

    out, _ = commands.run("launch.train", *arguments(run, f"{BUCKET}/data"), variables=second)
    assert "already finished: the checkpoint of step 40" in out
    out, _ = commands.run("launch.evaluate", f"--workdir={run}", variables=second)
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
def test_processes_with_a_copy_each_train_what_those_with_one_do(sample_data_dir, tmp_path):
    """Two hosts that share only the store are stopped and resumed."""
    url = f"file://{tmp_path}/there"
    # Long enough to be still running when the signal is noticed.
    fields = {"checkpoint_every_steps": 4, "epochs": 6, "checkpoint_every_epochs": 6}
    arguments = commands.tiny_training(url, sample_data_dir, **fields)
    apart = [{"variables": {"XDG_CACHE_HOME": str(tmp_path / name)}} for name in "ab"]
    with runs.started(arguments, 2, each=apart) as running:
        runs.wait_for(lambda: "checkpoints/8/digests.json" in storage.Store(url).names(), running)
        running[1].send_signal(signal.SIGTERM)
        runs.finish(running, EXIT_RESTART)
    with runs.started(arguments, 2, each=apart) as running:
        runs.finish(running)
    runs.train(commands.tiny_training(tmp_path / "whole", sample_data_dir, **fields), 2)
    runs.assert_equal(tmp_path / "whole", tmp_path / "there")
    names = storage.Store(url).names()
    assert "lock" not in names and "logs/process_0001.log" in names
    assert len(runs.process_log(tmp_path / "there", 1).split("start on ")) == 3
    assert not list(tmp_path.glob("[ab]/jax_pix2pix/*/run*"))


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
def test_parameters_that_no_host_has_whole_are_refused_at_once(sample_data_dir, tmp_path):
    url = f"file://{tmp_path}/there"
    arguments = commands.tiny_training(url, sample_data_dir, fsdp=2)
    apart = [{"variables": {"XDG_CACHE_HOME": str(tmp_path / name)}} for name in "ab"]
    for _, err in runs.train(arguments, 2, 1, each=apart):
        assert "parameters are split over several hosts" in commands.error_line(err)
    assert "metrics.jsonl" not in storage.Store(url).names()


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
