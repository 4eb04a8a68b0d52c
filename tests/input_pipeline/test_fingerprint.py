"""Copies of prepared data have one fingerprint, and other data another."""

import os
import shutil

import pytest

from input_pipeline import prepared
from input_pipeline.dataset import Dataset
from input_pipeline.prepare import options_of, prepare
from jax_pix2pix.errors import DataError
from tests.input_pipeline.conftest import data_config


@pytest.fixture
def data(source, tmp_path):
    config = data_config(tmp_path / "data")
    prepare("lidc_masks", source, tmp_path / "data", **options_of(config))
    return config


def _shard(data, split="train"):
    (shard,) = prepared.ensure_prepared(data).glob(f"*-{split}.array_record-00000-of-00001")
    return shard


def _other(data, place):
    """The config of a copy in which one byte of the training records differs."""
    prepared._read_tables.cache_clear()
    folder = data.data_dir + "_copy"
    shutil.copytree(data.data_dir, folder)
    other = data_config(folder)
    content = bytearray(_shard(other).read_bytes())
    content[place] ^= 1
    _shard(other).write_bytes(content)
    return other


def test_the_same_files_prepared_twice_at_other_times(data, source, tmp_path):
    for path in source.rglob("*.png"):
        os.utime(path, (1, 1))
    again = data_config(tmp_path / "again")
    prepare("lidc_masks", source, tmp_path / "again", **options_of(again))
    records = [prepared.ensure_prepared(one) / "preparation.json" for one in (data, again)]
    assert records[0].read_text() != records[1].read_text()
    found = Dataset(data).fingerprint()
    assert found == Dataset(again).fingerprint()
    assert found.keys() == {"arrays", "train split", "validation split", "test split"}


@pytest.mark.parametrize("place", [100, -100])
def test_another_record_is_another_split(data, place):
    ours, theirs = prepared.fingerprint(data), prepared.fingerprint(_other(data, place))
    assert {name for name in ours if ours[name] != theirs[name]} == {"train split"}


def test_of_many_blocks_some_are_read_and_the_last(data, monkeypatch):
    monkeypatch.setattr(prepared, "BLOCK", 16)
    monkeypatch.setattr(prepared, "BLOCKS", 2)
    monkeypatch.setattr(prepared, "FEWEST", 2)
    ours = prepared.fingerprint(data)
    assert prepared.fingerprint(_other(data, -1)) != ours
    shutil.rmtree(data.data_dir + "_copy")
    assert prepared.fingerprint(_other(data, len(_shard(data).read_bytes()) // 2)) == ours


def test_other_patients_are_another_split(data):
    ours = prepared.fingerprint(data)
    table = _shard(data).with_name(f"{_shard(data).name}.csv")
    table.write_text(table.read_text().replace("LIDC-IDRI-", "LIDC-IDRI-1", 1))
    prepared._read_tables.cache_clear()
    theirs = prepared.fingerprint(data)
    assert {name for name in ours if ours[name] != theirs[name]} == {"train split"}


def test_a_missing_shard_is_named(data):
    _shard(data).unlink()
    with pytest.raises(DataError, match=r"00000-of-00001 cannot be read \(No such file"):
        prepared.fingerprint(data)
