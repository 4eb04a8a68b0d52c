"""The benchmark of data in a store measures both ways, and refuses a folder."""

import pytest

from tests import commands

QUICKSTART = "--config=configs/lidc_mask2ct.py:quickstart"


@pytest.mark.slow
def test_both_ways_are_measured_and_compared(tmp_path):
    where = f"--config.data.data_dir=file://{tmp_path}/there"
    arguments = [QUICKSTART, where, "--seconds=0.1", "--hosts=2"]
    variables = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    out, _ = commands.run("launch.benchmark.store", *arguments, variables=variables)
    lines = out.splitlines()
    assert lines[-1] == "the first 3 batches are equal"
    assert [line.split()[0] for line in lines[-3:-1]] == ["stream", "copy"]
    assert "bytes, of which each batch fetches its own" in out


def test_a_folder_is_refused(tmp_path):
    arguments = [QUICKSTART, f"--config.data.data_dir={tmp_path}"]
    _, err = commands.run("launch.benchmark.store", *arguments, code=1)
    assert f"config.data.data_dir={tmp_path}: name the url of a store" in commands.error_line(err)
