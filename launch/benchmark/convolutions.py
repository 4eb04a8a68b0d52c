"""Measures each convolution, in every form that the library has and in PyTorch.

    python -m launch.benchmark.convolutions [--batch_sizes=8,64] [--output=FILE.json]

The layers are those of --config's networks, and two in 3D on one volume. Each has three maps (see
jax_pix2pix/models/convolution_maps.py): convolve and scatter are the forward pass and the gradient
of the input, the other way round in a transposed layer; correlate is the gradient of the kernel.
PyTorch and JAX take turns in one process, and the figures are medians. GFLOP counts only taps that
meet the image. The last row is a whole step of a small 3D generator, for which each framework has
a process and both take turns.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import platform
import sys
import time
from importlib import metadata

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.models.convolution_maps import Geometry
from launch.benchmark import measures, options, report, torch_comparison, volume
from launch.benchmark.convolutions_jax import (
    OPERANDS,
    TOLERANCE,
    Layer,
    agrees,
    applicable,
    forms,
    layers,
)
from launch.benchmark.processes import Worker
from launch.process import command

FLAGS = flags.FLAGS
PACKAGES = ("jax", "jaxlib", "torch")
TURNS = 3
ROUNDS = 5  # of the 3D generator
SLOWER = 1.15  # than another form by this factor: marked
LEGEND = """\
ms (GFLOP/s) of each form; * is the library's choice, ! another form took less by more than 15 %
after the map PyTorch / JAX: above 1, the choice takes less than PyTorch, the better of contiguous
and channels last"""


def main():
    # Two frameworks share a GPU, so JAX must not take most of its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    size = _volume_size()
    batch_sizes = options.batch_sizes(FLAGS.batch_sizes)
    config = FLAGS.config
    found = layers(config)
    if FLAGS.output:
        options.claim(FLAGS.output)
    device = jax.devices()[0]
    peer = _peer(device)
    peak = measures.matmul_peak(sharding.make_mesh(1, 1, 1), config.dtype)
    record = {
        "command": ["python", "-m", "launch.benchmark.convolutions", *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": report.machine() | {"jax_device": device.device_kind},
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES if peer or name != "torch"},
        "config": json.loads(config.to_json()),
        "matmul_flops_per_second": peak,
    }
    print(f"{device.device_kind}, {record['machine']['cores']} cores, {record['machine']['cpu']}")
    print(", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    print(f"{config.dtype}; matmul peak {peak / 1e9:.0f} GFLOP/s\n{LEGEND}")
    cases = [(layer, n) for n in batch_sizes for layer in found]
    cases += [(Layer("3D", Geometry(3, 1, 1, size, False), 32, c), 1) for c in (32, 1)]
    record["layers"] = [measure(layer, n, config.dtype, device, peer) for layer, n in cases]
    record["volume_step"] = volume_step(size, device, peer)
    if FLAGS.output:
        options.save(FLAGS.output, record)
        print(f"all figures: {FLAGS.output}")


def _volume_size():
    texts = FLAGS.volume
    if len(texts) != 3 or not all(text.isdecimal() and int(text) for text in texts):
        raise ConfigError(f"--volume={','.join(texts)}: use e.g. 32,64,64")
    return tuple(int(text) for text in texts)


def _peer(device):
    """-> PyTorch's name for JAX's device; None, with a printed reason, if it cannot use that."""
    reason = None
    if importlib.util.find_spec("torch") is None:
        reason = "run pip install -e '.[peer]'"
    elif device.platform not in torch_comparison.DEVICES:
        reason = f"it has no {device.platform}"
    if reason:
        print(f"PyTorch is left out: {reason}")
        return None
    from launch.benchmark.torch_settings import configure

    configure(measures.rounds_to_tf32(device))
    return torch_comparison.DEVICES[device.platform]


def measure(layer, batch_size, dtype, device, peer):
    """Measures one layer and prints its rows. -> its record."""
    g, operands = layer.g, layer.operands(batch_size)
    arrays = {name: jax.device_put(x.astype(dtype), device) for name, x in operands.items()}
    large, small = (
        "x".join(map(str, (*size, channels)))
        for size, channels in ((g.size, layer.large_channels), (g.small_size, layer.small_channels))
    )
    shape = f"{small} -> {large} transposed" if g.transposed else f"{large} -> {small}"
    print(f"\n{layer.name}: batch {batch_size}, {shape}, k{g.kernel} s{g.stride} p{g.padding}")
    native = forms("convolve", g, device.platform)["native"]
    flops = measures.convolution_flops(native, arrays["large"], arrays["w"])  # same for all maps
    maps = {}
    for operation, names in OPERANDS.items():
        given = [arrays[name] for name in names]
        ours, choice, expected = applicable(operation, g, device.platform, given)
        calls = _torch_calls(operation, layer, operands, expected, dtype, peer)
        calls |= {name: functools.partial(_wait_for, form, given) for name, form in ours.items()}
        maps[operation] = summarise(in_turns(calls, FLAGS.seconds), choice, flops)
        print(row(operation, maps[operation]), flush=True)
    return {
        "name": layer.name,
        "batch_size": batch_size,
        "shape": shape,
        "geometry": dataclasses.asdict(g),
        "flops": flops,
        "maps": maps,
    }


def _wait_for(form, operands):
    jax.block_until_ready(form(*operands))


def _torch_calls(operation, layer, operands, expected, dtype, peer):
    if not peer:
        return {}
    from launch.benchmark import convolutions_torch as theirs

    calls = theirs.calls(operation, layer.g, operands, dtype, peer)
    for call in calls.values():
        if not agrees(theirs.as_jax(operation, layer.g, call()), expected):
            raise BenchmarkError(f"{layer.name}: PyTorch's {operation} has another result")
    return {f"torch {layout}": call for layout, call in calls.items()}


def in_turns(calls, seconds):
    """Times functions in turn: {name: function} -> {name: seconds of each call}."""
    times = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            call()  # not counted: caches are cold, and the last one's threads may still spin
            end = time.perf_counter() + seconds / TURNS
            while True:
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() >= end:
                    break
    return times


def summarise(times, choice, flops):
    """-> medians, rates, and how the library's choice compares."""
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    theirs = [median for name, median in medians.items() if name.startswith("torch ")]
    ours = {name: median for name, median in medians.items() if not name.startswith("torch ")}
    fastest = min(ours, key=lambda name: ours[name])
    return {
        "seconds": {name: measures.summarise(seconds) for name, seconds in times.items()},
        "flops_per_second": {name: flops / median for name, median in medians.items()},
        "choice": choice,
        "fastest": fastest,
        "slower_than_another": ours[choice] > SLOWER * ours[fastest],
        "torch_over_choice": min(theirs) / ours[choice] if theirs else None,
    }


def row(operation, figures):
    def cell(name):
        milliseconds = 1e3 * figures["seconds"][name]["median"]
        mark = "*" if name == figures["choice"] else ""
        mark += "!" if mark and figures["slower_than_another"] else ""
        rate = figures["flops_per_second"][name] / 1e9
        return f"{name.split()[0] + mark:>11} {milliseconds:8.3f} ({rate:4.0f})"

    seconds, ratio = figures["seconds"], figures["torch_over_choice"]
    theirs = [name for name in seconds if name.startswith("torch ")]
    best = sorted(theirs, key=lambda name: seconds[name]["median"])[:1]
    cells = [cell(name) for name in (*best, *(name for name in seconds if name not in theirs))]
    against = f"{ratio:6.2f}" if ratio else f"{'':6}"
    return f"  {operation:10}{against}" + "".join(cells)


def volume_step(size, device, peer):
    """Measures the 3D generator's step and prints its row. -> its record."""
    with contextlib.ExitStack() as stack:
        workers = {"jax": stack.enter_context(Worker("launch.benchmark.convolutions_jax"))}
        build = workers["jax"].ask("build", size=size)
        counts = {"jax": _count(build["trial_step_seconds"])}
        trials = {}
        for layout in ("contiguous", "channels_last") if peer else ():
            worker = stack.enter_context(Worker("launch.benchmark.convolutions_torch"))
            tf32 = measures.rounds_to_tf32(device)
            facts = worker.ask("build", size=size, layout=layout, device=peer, tf32=tf32)
            if not np.allclose(facts["digest"], build["digest"], rtol=TOLERANCE):
                raise BenchmarkError("PyTorch's 3D generator has another loss or gradient")
            trials[layout] = facts["trial_step_seconds"]
            if trials[layout] == min(trials.values()):
                workers["torch"], counts["torch"] = worker, _count(trials[layout])
        turns = torch_comparison.in_turn(workers, "steps", counts, ROUNDS)
    record = turns | {"size": size, "channels": volume.CHANNELS, "torch_trial_seconds": trials}
    medians = {name: float(np.median(x)) for name, x in turns["round_medians"].items()}
    print(
        f"\n3D generator step, channels {' -> '.join(map(str, volume.CHANNELS))}, one float32 "
        f"volume of {'x'.join(map(str, size))}: "
        + ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in medians.items())
    )
    if peer:
        ratio = turns["ratio"]
        print(
            f"  PyTorch / JAX {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}), "
            f"PyTorch {min(trials, key=lambda layout: trials[layout])}"
        )
    return record


def _count(trial_seconds):
    return max(3, measures.calls_within(FLAGS.seconds, trial_seconds))


def _define_flags():
    """Not run at import: two commands may share a flag's name, and tests import both."""
    config_flags.DEFINE_config_file("config", "configs/lidc_mask2ct.py", "config with the layers")
    flags.DEFINE_list("batch_sizes", ["8", "64"], "batch sizes of the 2D layers")
    flags.DEFINE_list("volume", ["32", "64", "64"], "depth, height and width in 3D")
    flags.DEFINE_float("seconds", 0.3, "approximate seconds to measure each form", 0)
    flags.DEFINE_string("output", None, "JSON file for all figures")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
