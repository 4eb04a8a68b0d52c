"""All ways to feed training that launch.benchmark.input measures give the same batches."""

import importlib.util
import json

import numpy as np
import pytest

from input_pipeline import pipeline
from jax_pix2pix.errors import DataError
from launch.benchmark import input as benchmark
from launch.benchmark import meter
from tests import commands

SIZE, BATCH, EXAMPLES = 16, 8, 24


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input")
    unique, data = benchmark.write_data(folder, "sample", (0, 1, 2), SIZE, BATCH, EXAMPLES)
    assert unique == EXAMPLES  # out of the sample's 142
    return folder, data


def fields(data, augmented):
    enlarged = benchmark.enlarged_size(data)
    return data.to_dict() | {"flip": augmented, "load_size": augmented * enlarged}


@pytest.mark.slow
@pytest.mark.parametrize("augmented", [False, True])
def test_all_ways_of_this_project_give_the_same_batches(written, augmented):
    folder, data = written
    expected = None
    for name in benchmark.OURS:
        row = benchmark.run_ours(name, fields(data, augmented), folder, 0.1, expected)
        expected = expected or row["digests"]
        assert row["pairs_per_second"] > 0 and row["pairs_per_cpu_second"] > 0
        assert row["startup_seconds"].keys() == {0, meter.FAR}
        assert row["peak_mb"] >= 0.99 * row["imports_mb"] > 0  # the kernel counts in steps
    assert expected[0] != expected[1]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="the extra peer is missing")
@pytest.mark.parametrize(
    ("name", "workers"), [("files", 1), pytest.param("memmap", 0, marks=pytest.mark.long)]
)
def test_pytorch_reads_the_same_pairs_in_the_same_order(written, name, workers):
    folder, data = written
    ours = benchmark.run_ours("none", fields(data, False), folder, 0.01)
    theirs = benchmark.run_torch(name, fields(data, False), str(folder), 0.01, workers)
    assert theirs["digest"] == ours["digests"][0] and theirs["pairs_per_second"] > 0
    augmented = benchmark.run_torch(name, fields(data, True), str(folder), 0.01, workers)
    assert augmented["digest"] != theirs["digest"]


def test_another_batch_is_refused_before_anything_is_timed(written):
    folder, data = written
    with pytest.raises(DataError, match="the batches of PNG \\+ NPY files are not those of"):
        benchmark.run_ours("files", fields(data, False), folder, 1e9, ["another", "another"])


def test_pairs_are_repeated_in_the_order_of_the_sample(tmp_path):
    unique, data = benchmark.write_data(tmp_path, "sample", (0, 1, 2), SIZE, BATCH, 150)
    assert unique == 142
    pairs = pipeline.train_set(data)
    assert set(np.unique(pairs["source"])) <= {0, 127, 254}
    for name, images in pairs.items():
        assert len(images) == 150
        np.testing.assert_array_equal(images[142:], images[:8])
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), images)


@pytest.mark.slow
@pytest.mark.alone
def test_meter_counts_processor_time_and_starts():
    def batches_from(step):
        while True:
            sum(range(20_000))
            yield step

    figures = meter.measure(batches_from, [0, 7], 0.2, batch_size=10)
    # It only computes, on one thread.
    assert figures["pairs_per_cpu_second"] == pytest.approx(figures["pairs_per_second"], rel=0.5)
    assert figures["startup_seconds"].keys() == {0, 7}
    assert 0.99 * meter.peak_mb() < figures["peak_mb"] <= meter.peak_mb()


def test_refuses_in_one_line():
    _, err = commands.run("launch.benchmark.input", "--examples=10", code=1)
    assert "batch_size is 64, with 10 training examples" in commands.error_line(err)
    _, err = commands.run("launch.benchmark.input", "--mask_values=a,b", code=1)
    assert "--mask_values is a,b: use e.g. 0,1,2" in commands.error_line(err)


@pytest.mark.slow
@pytest.mark.long
def test_prints_a_table_and_writes_json(tmp_path):
    out, _ = commands.run(
        "launch.benchmark.input",
        f"--image_size={SIZE}",
        f"--batch_size={BATCH}",
        f"--examples={EXAMPLES}",
        "--seconds=0.01",
        f"--output={tmp_path}/input.json",
        with_torch=True,
    )
    record = json.loads((tmp_path / "input.json").read_text())
    names = [(row["name"], row["augmented"]) for row in record["results"]]
    ways = len(benchmark.OURS)
    if importlib.util.find_spec("torch"):
        ways += len(benchmark.PYTORCH)
    assert len(set(names)) == len(names) == 2 * ways
    assert all(row["name"] in out for row in record["results"])
    assert {"jax", "numpy", "python"} <= record["versions"].keys()
