"""launch.benchmark: its figures against closed forms and each other, and refusals."""

import json
import math
import os
import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax import monitoring

from configs.lidc_mask2ct import get_config
from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError, ConfigError, DataError
from jax_pix2pix.fit import initial_state, lower_step
from jax_pix2pix.models import convolution_maps as maps
from jax_pix2pix.runs import workdir
from launch.benchmark import measures, torch_comparison
from launch.benchmark.jax_worker import Measurements
from launch.benchmark.options import batch_sizes
from launch.benchmark.processes import Worker
from tests import commands
from tests.oracle.benchmark_peer import Peer
from tests.tiny import tiny_config

WIDTH, SIZE, DEPTH = 4, 32, 3


def _config(batch_size):
    config = tiny_config()
    config.data.batch_size, config.data.image_size = batch_size, SIZE
    config.generator.depth = DEPTH
    return config


def _arguments(*flags, **overrides):
    fields = {
        "data.image_size": SIZE,
        "generator.depth": DEPTH,
        "generator.width": WIDTH,
        "discriminator.width": WIDTH,
    } | overrides
    return [
        "--config=configs/lidc_mask2ct.py:quickstart",
        "--rounds=2",
        "--steps=4",
        *[f"--config.{name}={value}" for name, value in fields.items()],
        *flags,
    ]


def _hide(folder, *modules):
    """A folder to put first on the path, where importing these modules fails."""
    for name in modules:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is hidden')\n")
    return folder


def test_analytic_flops_are_the_closed_form():
    n = 3
    generator = [(1, 4, 16), (4, 8, 8), (8, 16, 4), (16, 8, 4), (16, 4, 8), (8, 1, 16)]
    discriminator = [(2, 4, 16), (4, 8, 8), (8, 16, 4), (16, 32, 3), (32, 1, 2)]

    def forward(layers):  # (in channels, out channels, small side) of each; k4 with padding 1
        return sum(2 * n * (4 * m - 2) ** 2 * i * o for i, o, m in layers)

    g = 3 * forward(generator) - forward(generator[:1])
    d = 8 * forward(discriminator) - 2 * forward(discriminator[:1])
    config = _config(n)
    assert measures.step_flops(workdir.build_system(config), config) == g + d


@pytest.mark.parametrize("g", [(4, 2, 1, (64, 64), True), (3, 1, 1, (4, 16, 16), True)])
def test_flops_are_the_native_forms_whatever_the_cpu_gets(g):
    g = maps.Geometry(*g)
    small, w = np.ones((1, *g.small_size, 32)), np.ones((g.kernel,) * g.ndim + (32, 32))
    pairs = math.prod(
        sum(0 <= g.stride * i + a - g.padding < n for i in range(m) for a in range(g.kernel))
        for n, m in zip(g.size, g.small_size, strict=True)
    )
    assert measures.convolution_flops(lambda x, w: maps.scatter(x, w, g), small, w) == (
        2 * pairs * 32 * 32
    )


def test_flops_of_a_scan_and_of_what_nobody_needs():
    x, w = np.ones((1, 8, 8, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)

    def conv(x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers)

    once = 2 * 6 * 6 * 9
    assert measures.convolution_flops(conv, x) == once
    assert measures.convolution_flops(lambda x: (conv(x), x)[1], x) == 0

    def loop(x):
        return jax.lax.scan(lambda total, _: (total + conv(x).sum(), None), 0.0, length=5)[0]

    assert measures.convolution_flops(loop, x) == 5 * once


def _compiled(config, devices, steps_per_call):
    system = workdir.build_system(config)
    mesh = sharding.make_mesh(1, config.data.batch_size, devices)
    abstract = workdir.abstract_state(system, config)
    lowered, _ = lower_step(system, config, mesh, abstract, steps_per_call=steps_per_call)
    shardings = sharding.state_shardings(mesh, abstract)
    return lowered.compile(), initial_state(system, config, shardings), mesh


@pytest.mark.slow
def test_xlas_flops_are_of_one_step_of_the_global_batch():
    config = _config(8)

    def flops(devices, steps_per_call):
        compiled, *_ = _compiled(config, devices, steps_per_call)
        return measures.xla_cost(compiled, devices)["flops"]

    one = flops(1, 1)
    analytic = measures.step_flops(workdir.build_system(config), config)
    assert analytic < one < 3 * analytic
    assert flops(1, 3) == pytest.approx(one, rel=0.02)
    assert flops(2, 1) == pytest.approx(one, rel=0.1)  # both devices run the optimiser


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_steps_in_one_call_are_single_steps(float64, devices):
    config = _config(4)
    config.dtype = "float64"
    rng = np.random.default_rng(0)
    shape = (3, 4, SIZE, SIZE, 1)
    batches = {k: rng.integers(0, 255, shape, np.uint8) for k in ("source", "target")}

    single, state, mesh = _compiled(config, devices, 1)
    losses = []
    for step in range(3):
        batch = sharding.to_global({k: x[step] for k, x in batches.items()}, mesh)
        state, metrics = single(state, None, batch)
        losses.append(float(metrics["loss_G"]))

    together, start, mesh = _compiled(config, devices, 3)
    stacked = jax.device_put(batches, sharding.stacked_batch_sharding(mesh))
    new, metrics = together(start, None, stacked)
    assert int(new.step) == 3
    np.testing.assert_allclose(metrics["loss_G"], losses, rtol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), new, state)


def test_the_second_compilation_comes_from_the_cache(tmp_path):
    hits = []

    def listen(event, **_):
        if event.endswith("cache_hits"):
            hits.append(event)

    monitoring.register_event_listener(listen)
    before = jax.config.jax_compilation_cache_dir
    jax.jit(lambda x: x - len(str(tmp_path)))(1.0)  # JAX now keeps that folder

    def lower():
        return jax.jit(lambda x: x * 3 + len(str(tmp_path))).lower(np.ones(3, np.float32))

    compiled, seconds = measures.timed_compile(lower, str(tmp_path))
    assert seconds > 0 and not hits and list(tmp_path.iterdir())
    measures.timed_compile(lower, str(tmp_path))
    assert len(hits) == 1
    assert jax.config.jax_compilation_cache_dir == before
    assert compiled(np.ones(3, np.float32))[0] == 3 + len(str(tmp_path))


@pytest.mark.slow
@pytest.mark.alone
def test_peaks_are_those_of_numpy_within_an_order_of_magnitude():
    def numpys(call, work):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return work / min(times)

    mesh = sharding.make_mesh(1, 1, 1)
    a = np.ones((512, 512), np.float32)
    expected = numpys(lambda: a @ a, 2 * 512**3)
    peak = measures.matmul_peak(mesh, "float32", size=512, seconds=0.2)
    assert expected / 10 < peak < expected * 10
    b = np.ones(2**24, np.float32)
    expected = numpys(lambda: np.add(b, 1, out=b), 2 * b.nbytes)
    peak = measures.copy_peak(mesh, megabytes=64, seconds=0.2)
    assert expected / 10 < peak < expected * 10


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """(table, JSON, folder of the trace) for two batch sizes, without TensorFlow."""
    folder = tmp_path_factory.mktemp("synthetic")
    hidden = tmp_path_factory.mktemp("hidden")
    _hide(hidden, "tensorflow", "tensorflow_datasets", "array_record")
    output, trace = folder / "out" / "benchmark.json", folder / "trace"
    out, _ = commands.run(
        "launch.benchmark",
        *_arguments(f"--output={output}", f"--profile={trace}"),
        "--batch_sizes=2,4",
        "--scaling",
        "--steps_per_call=2",
        "--devices=2",
        "--dtype=bfloat16",
        devices=4,
        variables={"PYTHONPATH": str(hidden)},
    )
    return out, json.loads(output.read_text()), trace


@pytest.mark.slow
def test_synthetic_input_without_tensorflow(synthetic):
    out, record, trace = synthetic
    for result, batch_size in zip(record["results"], (2, 4), strict=True):
        assert result["batch_size"] == batch_size
        assert (result["devices"], result["steps_per_call"]) == (2, 2)
        assert result["tf32"] is False
        assert result["dtype"] == record["config"]["dtype"] == "bfloat16"
        times = result["step_seconds"]
        every = np.concatenate(times["rounds"])
        assert every.size == 4  # 2 rounds of 2 calls with 2 steps each
        assert times["median"] == pytest.approx(np.median(every))
        assert 0 < times["p10"] <= times["median"] <= times["p90"]
        assert result["images_per_second"] == pytest.approx(batch_size / times["median"])
        assert result["images_per_second_per_device"] * 2 == result["images_per_second"]
        flops = result["flops_a_step"]
        assert flops["analytic"] < flops["xla"] < 4 * flops["analytic"]
        matmul = result["peaks"]["matmul_flops_per_second"]
        share = flops["analytic"] / times["median"] / matmul
        assert result["share_of_matmul_peak"] == pytest.approx(share)
        assert 0 < share < 1 and 0 < result["share_of_copy_peak"]
        assert 2**26 < result["peak_memory"]["bytes"] < 2**33
        assert 0 < result["compile_seconds"]["cached"] < result["compile_seconds"]["cold"]
        assert result["real_input"] is result["against_torch"] is None
        scaling = result["scaling"]
        one = batch_size / 2 / np.median(scaling["seconds"])  # of the two devices
        assert scaling["one_device_images_per_second"] == pytest.approx(one)
        assert scaling["efficiency"] * one == pytest.approx(result["images_per_second_per_device"])
        assert result["versions"]["jax"] == jax.__version__
    small, large = (result["flops_a_step"]["analytic"] for result in record["results"])
    assert large == 2 * small
    assert record["overrides"]["generator.width"] == WIDTH
    assert any(trace.rglob("*.xplane.pb"))
    lines = {line[:44].strip(): line[44:].split() for line in out.splitlines()}
    assert lines["batch size"] == ["2", "4"]
    assert "waiting for input" not in lines and "step, PyTorch / JAX" not in lines
    assert lines["efficiency of all"][0].endswith("%")
    assert f"jax {jax.__version__}" in out and record["machine"]["cpu"] in out


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_measure_together_and_the_first_reports(tmp_path):
    place = [f"--coordinator_address=127.0.0.1:{commands.free_port()}", "--num_processes=2"]
    arguments = _arguments("--scaling", f"--output={tmp_path / 'b.json'}", *place)
    processes = [
        commands.start("launch.benchmark", *arguments, f"--process_id={number}", "--batch_sizes=4")
        for number in (0, 1)
    ]
    first, second = (commands.finish(process)[0] for process in processes)
    assert "2 cpu in 2 process(es)" in first and "efficiency of all" in first and not second
    (result,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert (result["devices"], result["processes"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.long
def test_real_input(sample_data_dir, tmp_path):
    output = tmp_path / "benchmark.json"
    fields = {"data.image_size": 128, "data.data_dir": sample_data_dir}
    flags = ["--input=real", "--steps_per_call=2", "--seconds=0.5", f"--output={output}"]
    arguments = _arguments(*flags, **fields)
    out, _ = commands.run("launch.benchmark", *arguments)
    real = json.loads(output.read_text())["results"][0]["real_input"]
    assert 0 < real["waited_fraction"] < 1
    assert 0 < real["together_images_per_second"] < real["pipeline_images_per_second"]
    assert len(real["rounds"]) == 2 and "waiting for input" in out


def _against(tmp_path, **variables):
    output = tmp_path / "benchmark.json"
    arguments = _arguments("--against=torch", f"--output={output}")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    out, _ = commands.run(
        "launch.benchmark", *arguments, variables=cache | variables, with_torch=True
    )
    result = json.loads(output.read_text())["results"][0]
    return out, result, result["against_torch"]


@pytest.mark.slow
@pytest.mark.long
def test_against_torch_without_a_compiler(tmp_path):
    out, result, against = _against(tmp_path, CXX="/nowhere/c++")
    assert set(against["left_out"]) == {"compile", "compile_channels_last"}
    assert all("torch.compile failed" in reason for reason in against["left_out"].values())
    trials = against["trial_seconds"]
    assert set(trials) == {"eager", "channels_last"}
    assert against["variant"] == min(trials, key=trials.get)
    for request in ("steps", "generator"):
        medians = against[request]["round_medians"]
        ratios = [b / a for a, b in zip(medians["jax"], medians["torch"], strict=True)]
        assert len(ratios) == 2
        assert against[request]["ratio"]["median"] == pytest.approx(np.median(ratios))
        assert against[request]["ratio"]["max"] == pytest.approx(max(ratios))
        assert all(x > 0 for side in against[request]["cpu_seconds_a_step"].values() for x in side)
    # A step is more work than its forward pass, in both frameworks.
    for name in ("jax", "torch"):
        step, forward = (against[r]["round_medians"][name] for r in ("steps", "generator"))
        assert min(step) > min(forward)
    assert result["step_seconds"]["rounds"] == against["steps"]["seconds"]["jax"]
    assert against["threads"] == len(os.sched_getaffinity(0))
    assert f"torch {against['torch']}" in out and "step, PyTorch / JAX" in out


@pytest.mark.slow
@pytest.mark.long
def test_against_torch_compiled(tmp_path):
    _, _, against = _against(tmp_path)
    assert not against["left_out"] and len(against["trial_seconds"]) == 4


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        (["--devices=3"], {}, "3 devices asked for, 2 present"),  # the worker's message
        (["--steps=0"], {}, "--steps"),
        (["--output=/dev/null/x.json"], {}, "/dev/null"),
        (["--profile=/dev/null/trace"], {}, "/dev/null/trace"),
        ([], {"data.cache": "device"}, "config.data.cache=device needs --input=real"),
    ],
)
def test_refusals_are_one_line_of_the_command(flags, overrides, message):
    out, err = commands.run("launch.benchmark", *_arguments(*flags, **overrides), devices=2, code=1)
    assert message in commands.error_line(err)
    assert "images/s" not in out


def _build(tmp_path, devices=2, real_input=False, **overrides):
    """Builds in this process, as the worker does first."""
    config = get_config("quickstart")
    config.update_from_flattened_dict({"data.data_dir": str(tmp_path)} | overrides)
    Measurements().build(json.loads(config.to_json()), devices, 1, real_input, str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data.batch_size": 3}, "config.data.batch_size=3 does not divide over 2 devices"),
        ({"dtype": "float16"}, "config.dtype='float16': use one of"),
        ({"real_input": True, "data.sample": "knee"}, "no embedded sample 'knee'"),
    ],
)
def test_a_worker_refuses_what_it_cannot_measure(tmp_path, options, message):
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        _build(tmp_path, **options)


def test_batch_sizes_are_numbers():
    with pytest.raises(ConfigError, match=r"--batch_sizes=two: use e\.g\. 8,16"):
        batch_sizes(["two"])


def test_a_peer_is_of_one_device_and_of_its_own_networks():
    build = {"platform": "cpu", "devices": 2}
    with pytest.raises(BenchmarkError, match=r"not on 2 cpu device\(s\): use --devices=1"):
        torch_comparison.fastest_peer({}, build)
    with pytest.raises(BenchmarkError, match='"x" has no PyTorch peer; lidc_mask2ct has'):
        torch_comparison.check("x")
    for field, value, message in (
        ("norm", "batch", "config.generator.norm=batch: the PyTorch peer has instance"),
        ("skips", False, "config.generator.skips=False: the PyTorch peer has True alone"),
    ):
        config = json.loads(get_config("quickstart").to_json())
        config["generator"][field] = value
        with pytest.raises(BenchmarkError, match=message):
            Peer().build(config, "eager", "cpu", False)


@pytest.mark.slow
def test_missing_torch_names_the_extra():
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        "runpy.run_module('launch.benchmark', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *_arguments("--against=torch")]
    done = subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "pip install -e '.[peer]'" in commands.error_line(done.stderr)


def test_a_process_that_ends_leaves_its_last_words():
    with Worker("tests.no_such_module") as worker, pytest.raises(BenchmarkError, match="No module"):
        worker.ask("build")
    with Worker("launch.benchmark.jax_worker") as worker:
        worker.process.kill()
        with pytest.raises(BenchmarkError, match="signal 9; out of memory"):
            worker.ask("build")
