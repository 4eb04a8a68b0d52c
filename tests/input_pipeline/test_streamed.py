"""Prepared data whose records stay in a store, in memory or on a real server of S3."""

import http.server
import os
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest

from input_pipeline import pipeline, prepared, shards, streamed
from input_pipeline.dataset import Dataset
from input_pipeline.records import Records
from jax_pix2pix.errors import DataError
from jax_pix2pix.runs.stores import storage
from tests import peak_memory
from tests.faults.test_corrupt_records import (  # noqa: F401  whole is a fixture
    INSTEAD,
    RECORDS,
    assert_equal,
    damage,
    joined,
    shard,
    whole,
)
from tests.input_pipeline.test_shards import write
from tests.launch.process.test_storage import BUCKET, own  # noqa: F401  own is a fixture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch):
    """The parts that were read of objects since: [(name, bytes)]."""
    read, parts = storage.Store.read_parts, []

    def read_parts(store, wanted):
        parts.extend((name, end - start) for name, start, end in wanted)
        return read(store, wanted)

    monkeypatch.setattr(storage.Store, "read_parts", read_parts)
    return parts


def uploaded(data, url, **fields):
    """config.data of a copy in a store, whose records stay there."""
    files = [path for path in Path(data.data_dir).rglob("*") if path.is_file()]
    names = [path.relative_to(data.data_dir).as_posix() for path in files]
    storage.Store(url).put(data.data_dir, [name for name in names if not name.endswith("lock")])
    there = data.copy_and_resolve_references()
    there.data_dir, there.from_store = url, "stream"
    there.update(fields)
    return there


@pytest.fixture
def there(whole):  # noqa: F811
    return uploaded(whole, f"memory://{uuid.uuid4().hex}")


def opened(data):
    return Dataset(data, prepare=True)


def here(data, **fields):
    """The same data in the folder."""
    data = data.copy_and_resolve_references()
    data.update(fields)
    return data


def copied_shards(cache):
    return [path for path in cache.rglob("*array_record*") if path.suffix != ".csv"]


@pytest.mark.slow
def test_two_hosts_read_their_rows_of_the_same_batches_from_s3(own, whole, cache, asked):  # noqa: F811
    own.start()
    there = uploaded(whole, f"{BUCKET}/data")
    dataset, steps = opened(there), (5, 10)
    batches = joined([list(dataset.train_batches(*steps, host, 2)) for host in (0, 1)])
    assert_equal(batches, list(pipeline.train_batches(whole, *steps)))
    assert max(size for _, size in asked) < 2 * 900 and not copied_shards(cache)
    assert dataset.fingerprint() == prepared.fingerprint(whole)
    assert dataset.examples("test") == prepared.examples(whole, "test")
    assert_equal(list(dataset.eval_batches("test")), list(pipeline.eval_batches(whole, "test")))
    own.stop()


def test_of_a_shard_the_footer_and_the_records_are_asked_for(there, asked):
    records = Records(prepared.ensure_prepared(there), there, "train")
    records.load(np.array([0, 1, 5]))
    names = sorted(name[-14:-9] for name, _ in asked)
    assert names == ["00000"] * 4 + ["00001"] * 4  # two ends, a footer and a run of records
    first = sum(size for _, size in asked)
    asked.clear()
    records.load(np.array([5, 1, 0, 1]))
    assert [name[-14:-9] for name, _ in asked] == ["00000", "00001"]
    # Of 16 x 16 pixels twice, and names.
    assert 3 * 512 < sum(size for _, size in asked) < 3 * 900 and first < 3 * 900 + 2 * 1800


@pytest.mark.parametrize("fields", [{"context": 1}, {"depth": 3, "cache": "host"}])
def test_neighbours_are_asked_for_as_one_part(there, whole, asked, fields):  # noqa: F811
    fields |= {"batch_size": 2}
    there.update(fields)
    assert_equal(
        list(opened(there).train_batches(0, 4)),
        list(pipeline.train_batches(here(whole, **fields), 0, 4)),
    )
    of_records = [part for part in asked if part[1] > 400]
    assert len(of_records) < RECORDS + 2 * 4


def test_what_does_not_fit_stays_in_the_store_unless_told_otherwise(
    there, cache, monkeypatch, capsys
):
    there.from_store = "auto"
    needed = sum(storage.Store(there.data_dir).names().values())

    def free(bytes_left):
        usage = shutil.disk_usage(cache.parent)._replace(free=bytes_left)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    free(needed)
    prepared.ensure_prepared(there)
    assert not copied_shards(cache)
    out = capsys.readouterr().out
    assert f"{needed:,} bytes, of which each batch fetches its own" in out
    assert f"has {needed:,} left (config.data.from_store)" in out
    there.from_store = "copy"
    with pytest.raises(DataError, match="is not on this machine"):
        prepared.find(there)
    prepared.fetch(there)
    assert len(copied_shards(cache)) == 6
    there.from_store = "auto"  # goes by what was said first in this process
    assert prepared.find(there).name.endswith(".streamed")

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "second"))
    free(2 * needed)
    assert not prepared.ensure_prepared(there).name.endswith(".streamed")
    assert len(copied_shards(cache.parent / "second")) == 6


def test_a_workdirs_config_opens_no_store(there):
    with pytest.raises(DataError, match="is not on this machine"):
        Dataset(there).examples("train")


def test_descriptions_are_renewed(there):
    folder = prepared.ensure_prepared(there)
    record = f"{storage.url_of(there.data_dir, folder).removesuffix('.streamed')}/preparation.json"
    fsspec.filesystem("memory").pipe_file(record, b'{"notes": ["anew"]}')
    streamed._sets.clear()  # as in another process
    assert (prepared.ensure_prepared(there) / "preparation.json").read_bytes().endswith(b'anew"]}')


def test_without_files_in_memory_it_is_refused(there, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(DataError, match="which only Linux reads parts"):
        prepared.ensure_prepared(there)


@pytest.fixture
def damaged(whole, tmp_path):  # noqa: F811
    """config.data of a folder in which the records of INSTEAD are damaged."""
    shutil.copytree(whole.data_dir, tmp_path / "data")
    data = here(whole, data_dir=str(tmp_path / "data"), on_error="skip")
    for number in INSTEAD:
        damage(shard(data, number // 4), number % 4)
    return data


def test_a_record_damaged_in_the_store_is_one_line_or_skipped_as_on_disk(damaged):
    there = uploaded(damaged, f"memory://{uuid.uuid4().hex}")
    opened(there)
    batches = [list(opened(there).train_batches(0, 4, host, 2)) for host in (0, 1)]
    assert_equal(joined(batches), list(pipeline.train_batches(damaged, 0, 4)))
    there.on_error = "raise"
    with pytest.raises(DataError) as caught:
        opened(there).train_set()
    message = str(caught.value)
    assert message.startswith(f"{there.data_dir}/lidc_masks/") and "\n" not in message
    assert ", record 2, which is patient LIDC-IDRI-0001, slice 2, cannot be read (" in message


def test_the_parts_of_a_batch_are_asked_for_together(own):  # noqa: F811
    """A server that answers when forty wait for it, which one after the other would not."""
    together = threading.Barrier(40)

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            together.wait(20)
            self.send_response(206)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(self.headers["Range"][-5:].encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", own.port), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = storage.Store(f"{BUCKET}/x").read_parts([("a", n, n + 5) for n in range(10, 50)])
        server.shutdown()
    assert found == [f"{n}-{n + 4}".encode() for n in range(10, 50)]


def shards_in(data, split="train"):
    store = storage.Store(data.data_dir)
    return store, [n for n in store.names() if f"-{split}.array_record" in n and n[-3:] != "csv"]


@pytest.mark.parametrize("harm", ["cut", "empty", "footer", "end"])
def test_a_shard_damaged_in_the_store_is_named(there, harm):
    store, (first, *_) = shards_in(there)
    content = fsspec.filesystem("memory").cat_file(f"{there.data_dir}/{first}")
    places = {"footer": content.index(b"group_size") - 60, "end": len(content) - shards.BLOCK + 30}
    if harm in places:
        at = places[harm]
        content = content[:at] + bytes([255] * 40) + content[at + 40 :]
    else:
        content = content[: {"cut": len(content) // 2, "empty": 0}[harm]]
    store.write({first: content})
    with pytest.raises(DataError, match=rf"{store.url}/{first} with its 4 records, of patients"):
        opened(there).train_set()
    there.on_error = "skip"
    assert len(opened(there).train_set()["source"]) == RECORDS


def test_a_shard_that_is_missing_is_named_at_once(there):
    store, (first, *_) = shards_in(there)
    store.delete([first])
    with pytest.raises(DataError, match=f"lacks {Path(first).name}: prepare the data there again"):
        opened(there).check_training()


def test_records_that_unpack_to_all_memory_are_not_read(there, tmp_path):
    store, (first, *_) = shards_in(there)
    write(tmp_path / "bomb", [bytes(2 * 10**8)] * 3 + [b""], "group_size:1,zstd")
    store.write({first: (tmp_path / "bomb").read_bytes()})
    dataset = opened(there)

    def read():
        with pytest.raises(DataError, match=r"compressed: no shard|bytes, and at most"):
            dataset.train_set()

    assert peak_memory.megabytes(read) < 60


def test_an_object_that_changes_meanwhile_ends_the_run_and_skips_nothing(there):
    store, (first, *_) = shards_in(there)
    there.on_error = "skip"
    dataset = opened(there)
    dataset.check_training()
    store.write({first: b""})
    with pytest.raises(DataError, match=f"^{store.url}/.* gave 0 bytes of .* it changed meanwhile"):
        dataset.train_set()


def test_a_compressed_record_among_others_is_not_read(tmp_path):
    """As a reader would take it: the place in the footer leads into another record."""
    bomb = write(tmp_path / "bomb", [bytes(10**7)], "group_size:1,zstd").read_bytes()
    size = int.from_bytes(bomb[64 + 8 : 64 + 16], "little")
    chunk = bomb[64 : 64 + shards.HEADER + size]
    content = write(tmp_path / "a", [b"x" * 20 + chunk]).read_bytes()
    store = storage.Store(f"memory://{uuid.uuid4().hex}")
    store.write({"a": content})
    of = streamed._Set(store, store.names())
    found = streamed.StreamedShards(of, [("a", 1)], 10**8)
    assert found.read({0: [0]}) == {0: [b"x" * 20 + chunk]}
    parts, (_, end) = found._opened[0]
    found._opened[0] = parts, [content.index(chunk), end]
    with pytest.raises(ValueError, match="damaged or compressed"):
        found.read({0: [0]})


@pytest.mark.slow
def test_a_store_that_is_away_is_waited_for_and_its_records_not_skipped(
    own,  # noqa: F811
    whole,  # noqa: F811
    monkeypatch,
    capsys,
):
    own.start()
    there = uploaded(whole, f"{BUCKET}/away", on_error="skip")
    dataset = opened(there)
    own.stop()
    with pytest.raises(storage.Unreachable, match=f"^{BUCKET}/away/.* cannot be reached now"):
        list(dataset.train_batches(0, 2))
    monkeypatch.setattr(storage, "WAIT_SECONDS", 60)
    late = threading.Timer(0.5, own.start)
    late.start()
    assert_equal(list(dataset.train_batches(0, 2)), list(pipeline.train_batches(whole, 0, 2)))
    late.join()
    own.stop()
    assert capsys.readouterr().out.count("waiting up to 60 s for it") == 1
