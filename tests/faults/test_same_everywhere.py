"""Processes that would not train the same network end with one line, before training or soon."""

import re
import shutil
import time

import pytest

from tests import commands
from tests.faults import runs

LIMIT = 60  # seconds until all processes have ended
PREPARED = {"data.batch_size": 12, "data.image_size": 128}  # as in sample_data_dir


def _lines(arguments, *each, **options):
    """Starts a process for each dict of its own options. -> the line of each, which ends with 1."""
    start = time.monotonic()
    with runs.started(arguments, len(each), each=each, **options) as running:
        ended = runs.finish(running, 1)
    assert time.monotonic() - start < LIMIT
    return [commands.error_line(err) for _, err in ended]


def _spoiled_copy(data_dir, folder):
    """Copies prepared data and changes one bit of one training image."""
    shutil.copytree(data_dir, folder)
    (shard,) = folder.rglob("128_*/*/*-train.array_record-00000-of-00001")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def test_another_learning_rate_on_one_of_two(sample_data_dir, tmp_path):
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir)
    lines = _lines(arguments, {}, {"arguments": ["--config.optimizer.learning_rate=1e-3"]})
    assert lines[0] == lines[1]
    assert re.search(
        r"differ: config\.optimizer\.learning_rate is 0\.0002 on process 0 \(\S+\), 0\.001 on "
        r"process 1 \(\S+\): start all",
        lines[0],
    )
    assert not (tmp_path / "run").exists()


def test_a_mistaken_flag_of_one_is_told_to_all(sample_data_dir, tmp_path):
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir)
    first, second = _lines(arguments, {}, {"arguments": ["--profile_steps=9:5"]})
    assert second.startswith("error: --profile_steps=9:5: use two steps")
    assert re.match(r"error: process 1 \(\S+\): --profile_steps=9:5: use two steps", first)


def test_other_devices_on_one_of_three(sample_data_dir, tmp_path):
    """Their collectives would not fit each other; the batch size fits all."""
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **PREPARED)
    other = {"devices": 2, "float64": True, "arguments": ["--config.fsdp=2"]}
    for line in _lines(arguments, {}, {}, other):
        assert re.search(r'"1 cpu" on processes 0 \(\S+\), 1 \(\S+\), "2 cpu" on', line)
        assert "JAX_ENABLE_X64 is false on processes 0" in line
        assert "config.fsdp is 1 on processes 0" in line


def test_other_data_on_one_of_four(sample_data_dir, tmp_path):
    """An equal copy elsewhere is no other data."""
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **PREPARED)
    shutil.copytree(sample_data_dir, tmp_path / "equal")
    _spoiled_copy(sample_data_dir, tmp_path / "spoiled")
    equal, spoiled = (
        {"arguments": [f"--config.data.data_dir={tmp_path}/{name}"]}
        for name in ("equal", "spoiled")
    )
    for line in _lines(arguments, {}, equal, {}, spoiled):
        assert re.search(r"the data's train split is \S+ on processes 0 .*, 1 .*, 2 ", line)
        assert line.count("the data's") == 1 and "data_dir" not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_data_that_one_host_lacks_ends_all(sample_data_dir, tmp_path, lacking):
    fields = PREPARED | {"data.sample": ""}
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, **fields)
    each = [{}, {}]
    each[lacking] = {"arguments": [f"--config.data.data_dir={tmp_path}/none"]}
    lines = _lines(arguments, *each)
    assert lines[lacking].startswith(f"error: {tmp_path}/none/lidc_masks/")
    assert re.match(rf"error: process {lacking} \(\S+\): {tmp_path}/none/", lines[1 - lacking])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_flipped_bit_on_one_of_two_ends_the_run_at_the_next_checkpoint(sample_data_dir, tmp_path):
    fields = {"data.batch_size": 4, "data.image_size": 32, "generator.depth": 3}
    arguments = commands.tiny_training(
        tmp_path / "run", sample_data_dir, **fields, checkpoint_every_steps=4
    )
    lines = _lines([*arguments, "--flip_at=6"], {}, {}, module="tests.faults.flipped")
    assert lines[0] == lines[1]
    assert "step 8: the copies of generator.params.decode_0.bias" in lines[0]
    assert re.search(r"device \d+ of process 1 \(\S+\)", lines[0])
    assert runs.steps(tmp_path / "run") == [4]


@pytest.mark.slow
def test_hosts_that_do_not_share_the_workdir_are_refused(sample_data_dir, tmp_path):
    """Their first start would train, and the next could not read its checkpoints."""
    arguments = commands.tiny_training("run", sample_data_dir)
    arguments[0] = arguments[0].replace("configs/", f"{commands.ROOT}/configs/")
    for name in "ab":
        (tmp_path / name).mkdir()
    each = [{"folder": tmp_path / name} for name in "ab"]
    for _, err in runs.train(arguments, 2, 1, each=each):
        line = commands.error_line(err)
        assert "run/checkpoints: not all processes see that folder" in line
    assert not (tmp_path / "a/run/metrics.jsonl").exists()
