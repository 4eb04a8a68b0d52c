"""A shard of a prepared folder takes no more memory than its bytes, whatever it says."""

import contextlib
import os
import random
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from input_pipeline import pipeline, prepared, shards
from input_pipeline.shards import Shard
from jax_pix2pix.errors import DataError
from tests import peak_memory
from tests.input_pipeline.conftest import data_config
from tests.input_pipeline.test_prepared_files import whole  # noqa: F401  a fixture

SIZE = 3000


def write(path, records, options="group_size:1,uncompressed"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.fixture
def data(whole, tmp_path):  # noqa: F811
    shutil.copytree(whole, tmp_path / "data")
    return data_config(tmp_path / "data", batch_size=1)


def of_training(data):
    (path,) = prepared.ensure_prepared(data).glob("*-train.array_record-*-of-?????")
    return path


def test_places_are_those_of_the_records(tmp_path):
    """Records of all lengths, so that chunks begin and end anywhere in a block of 64 KiB."""
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(n)) for n in rng.integers(0, 200_000, 60)]
    path = write(tmp_path / "a", [*records, b"", bytes(shards.BLOCK)])
    shard = Shard(path, 62, 200_000)
    shard.check(range(62))
    with path.open("rb") as file:
        for place, record in zip(shard._places, records, strict=False):
            content = shards._read(file.fileno(), place, shards.HEADER + len(record) + 9)
            assert record in content
    path = write(tmp_path / "b", [b"x"] * 5000)
    Shard(path, 5000, 1).check([0, 4999])


@pytest.mark.parametrize("codec", ["zstd", "brotli", "snappy"])
def test_records_that_unpack_to_all_memory_are_not_read(data, codec):
    path = of_training(data)
    write(path, [bytes(2 * 10**8)] * 2 + [b""], f"group_size:1,{codec}")
    assert path.stat().st_size < 30e6

    def read():
        with pytest.raises(DataError, match=f"{path} with its 3 records, .* compressed: no shard"):
            pipeline.train_set(data)

    assert peak_memory.megabytes(read) < 60


def test_a_compressed_record_among_others_is_not_read(tmp_path):
    """As a reader would take it: the place in the footer leads into another record."""
    bomb = write(tmp_path / "bomb", [bytes(10**7)], "group_size:1,zstd").read_bytes()
    size = int.from_bytes(bomb[64 + 8 : 64 + 16], "little")
    chunk = bomb[64 : 64 + shards.HEADER + size]
    path = write(tmp_path / "a", [b"x" * 20 + chunk])
    place = path.read_bytes().index(chunk)
    shard = Shard(path, 1, 10**8)
    shard.check([0])
    shard._places[0], shard._checked[0] = place, 0
    with pytest.raises(ValueError, match="damaged or compressed"):
        shard.check([0])


@pytest.mark.parametrize(
    ("options", "count", "most", "said"),
    [
        ("group_size:2,uncompressed", 4, SIZE, "4 records and not 4"),
        ("group_size:1,uncompressed", 3, SIZE, "4 records and not 3"),
        ("group_size:1,uncompressed,transpose", 4, SIZE, "damaged or compressed"),
        ("group_size:1,uncompressed", 4, 10, "bytes, and at most"),
    ],
)
def test_what_is_not_written_here_is_refused(tmp_path, monkeypatch, options, count, most, said):
    monkeypatch.setattr(shards, "STRINGS", 100)
    path = write(tmp_path / "a", [bytes([n]) * SIZE for n in range(4)], options)
    with pytest.raises(ValueError, match=said):
        Shard(path, count, most).check([0])


@pytest.mark.parametrize(("place", "value"), [(25, 2), (31, 1), (38, 1), (14, 1), (24, ord("t"))])
def test_a_records_header_is_held_to_the_file(tmp_path, place, value):
    """The number of records, the unpacked bytes, the bytes and the type, as readers take them."""
    path = write(tmp_path / "a", [b"x" * SIZE])
    content = bytearray(path.read_bytes())
    content[64 + place] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"it (has|lies|is) "):
        Shard(path, 1, SIZE).check([0])


def test_damage_anywhere_raises_one_kind_of_error(tmp_path):
    path = write(tmp_path / "a", [b"x" * SIZE] * 3)
    whole_file, draw = path.read_bytes(), random.Random(0)
    starts = (0, whole_file.index(b"group_size") - 60, len(whole_file) - shards.BLOCK + 24)
    for _ in range(400):
        content = bytearray(whole_file)
        for _ in range(draw.randint(1, 3)):
            content[draw.choice(starts) + draw.randrange(120)] = draw.randrange(256)
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        with contextlib.suppress(ValueError):
            Shard(path, 3, SIZE).check(range(3))


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["", ".csv", "features.json", "dataset_info.json"])
def test_only_regular_files_of_the_folder_are_read(data, tmp_path, kind, name):
    path = of_training(data)
    path = path.parent / name if name.endswith(".json") else path.with_name(path.name + name)
    path.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "moved")
    said = "is no regular file" if kind in ("pipe", "folder") else "is a link"
    with pytest.raises(DataError, match=rf"{path} .*{said}") as caught:
        pipeline.train_set(data)
        pipeline.check_training(data)
    assert "\n" not in str(caught.value)
