"""Measures what a training step costs on this machine, and compares it with PyTorch.

    python -m launch.benchmark --config=configs/lidc_mask2ct.py[:variant] [--config.field=value]
    python -m launch.benchmark --config=… --batch_sizes=8,64 --against=torch --output=FILE.json
    python -m launch.benchmark --config=… --input=real
    python -m launch.benchmark --config=… --scaling

On several hosts start it on each, like launch.train; the first process reports. --scaling also
measures each device alone, with its share of the batch, and prints the efficiency of all together.

Prints a table with a column per batch size, and writes JSON with every measured time to --output.
With synthetic input TensorFlow is not needed.
"""

import datetime
import json
import os
import sys
import tempfile

import numpy as np
from absl import flags
from ml_collections import config_flags

from jax_pix2pix.errors import ConfigError
from launch.benchmark import options, report, torch_comparison
from launch.benchmark.measures import calls_within, summarise
from launch.benchmark.processes import Worker
from launch.process import command, distributed

_CONFIG = config_flags.DEFINE_config_file("config", None, "a run's config, file.py[:variant]")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "global batch sizes; default the config's")
_DTYPE = flags.DEFINE_string("dtype", None, "float32 or bfloat16; default the config's")
_DEVICES = flags.DEFINE_integer("devices", None, "number of devices to use; default all", 1)
_STEPS_PER_CALL = flags.DEFINE_integer("steps_per_call", 1, "steps in one compiled loop", 1)
_INPUT = flags.DEFINE_enum("input", "synthetic", ["synthetic", "real"], "real: the prepared data")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "number of measurements of the step", 1)
_SECONDS = flags.DEFINE_float("seconds", 5, "approximate seconds of one measurement", 0)
_STEPS = flags.DEFINE_integer("steps", None, "steps of one measurement, instead of --seconds", 1)
_AGAINST = flags.DEFINE_enum("against", None, ["torch"], "framework to compare with, in turns")
_PROFILE = flags.DEFINE_string("profile", None, "folder for a profiler trace of some steps")
_SCALING = flags.DEFINE_bool("scaling", False, "efficiency against one device alone")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for all times")
flags.mark_flag_as_required("config")

PROFILED_STEPS = 3


def main():
    config = _CONFIG.value
    if _DTYPE.value:
        config.dtype = _DTYPE.value
    if _INPUT.value == "synthetic" and config.data.cache != "none":
        raise ConfigError(f"config.data.cache={config.data.cache} needs --input=real")
    if _SCALING.value and _INPUT.value == "real":
        raise ConfigError("--scaling measures the step alone: leave --input=real out")
    if _AGAINST.value:
        torch_comparison.check(config.system)
    if _PROFILE.value:
        os.makedirs(_PROFILE.value, exist_ok=True)
    if _OUTPUT.value:
        options.claim(_OUTPUT.value)
    record = {
        "command": ["python", "-m", "launch.benchmark", *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
        "config": json.loads(config.to_json()),
        "results": [],
    }
    first = True
    for batch_size in _batch_sizes(config):
        result, first = measure(config, batch_size)
        record["results"].append(result)
        if _OUTPUT.value and first:
            options.save(_OUTPUT.value, record)
    if not first:
        return
    print(report.table(record))
    if _OUTPUT.value:
        print(f"all times: {_OUTPUT.value}")


def _batch_sizes(config):
    given = _BATCH_SIZES.value
    return [config.data.batch_size] if given is None else options.batch_sizes(given)


def measure(config, batch_size):
    """Measures one batch size. -> (its record, whether this process is to report it)."""
    config.data.batch_size = batch_size
    plain = json.loads(config.to_json())
    # Two frameworks share a GPU, so JAX must not take most of its memory beforehand.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if _AGAINST.value else {}
    with (
        tempfile.TemporaryDirectory() as cache_dir,
        Worker("launch.benchmark.jax_worker", *distributed.given(), **environment) as worker,
    ):
        place = worker.ask("start")
        first = place["process"] == 0
        if _AGAINST.value and place["processes"] > 1:
            raise ConfigError(f"--against={_AGAINST.value}: PyTorch is measured in one process")
        build = worker.ask(
            "build",
            config=plain,
            devices=_DEVICES.value,
            steps_per_call=_STEPS_PER_CALL.value,
            real_input=_INPUT.value == "real",
            cache_dir=cache_dir,
        )
        if first:
            print(
                f"batch {batch_size}: compiled, {build['trial_step_seconds']:.4f} s a step",
                flush=True,
            )
        count = _count(build)
        if _AGAINST.value:
            peer, facts = torch_comparison.fastest_peer(plain, build)
            with peer:
                counts = {"jax": count, "torch": _count(facts)}
                against = torch_comparison.compare(worker, peer, counts, _ROUNDS.value) | facts
            rounds = against["steps"]["seconds"]["jax"]
            memory = against["peak_memory"]["jax"]
        else:
            against = None
            rounds = [worker.ask("steps", count=count)["seconds"] for _ in range(_ROUNDS.value)]
            memory = worker.ask("memory")
        real = _real_input(worker, count, batch_size) if _INPUT.value == "real" else None
        if _PROFILE.value:
            worker.ask("profile", directory=os.path.abspath(_PROFILE.value), count=PROFILED_STEPS)
        cached = worker.ask("compile_again", cache_dir=cache_dir)
        peaks = worker.ask("peaks")
        alone = (
            worker.ask("one_device", count=count, cache_dir=cache_dir) if _SCALING.value else None
        )
    times = summarise([second for turn in rounds for second in turn])
    step = times["median"]
    xla = build["xla"]
    rate = batch_size / step / build["devices"]
    record = {
        "batch_size": batch_size,
        "dtype": config.dtype,
        "steps_per_call": _STEPS_PER_CALL.value,
        **{
            name: build[name] for name in ("platform", "device_kind", "devices", "tf32", "versions")
        },
        "compile_seconds": {"cold": build["compile_seconds"], "cached": cached},
        "step_seconds": times | {"rounds": rounds},
        "images_per_second": batch_size / step,
        "images_per_second_per_device": rate,
        "flops_a_step": {"analytic": build["flops_analytic"], "xla": xla["flops"]},
        "bytes_accessed_a_step_xla": xla["bytes_accessed"],
        "peaks": peaks,
        "share_of_matmul_peak": build["flops_analytic"] / step / peaks["matmul_flops_per_second"],
        "share_of_copy_peak": xla["bytes_accessed"]
        and xla["bytes_accessed"] / step / peaks["copy_bytes_per_second"],
        "peak_memory": memory,
        "real_input": real,
        "against_torch": against,
        "processes": place["processes"],
        "scaling": alone and _scaling(alone["seconds"], batch_size / build["devices"], rate),
    }
    return record, first


def _scaling(seconds, images, rate):
    """One device alone, and how far all come beside it; images: of a step of one device."""
    one = images / summarise(seconds)["median"]
    return {"one_device_images_per_second": one, "efficiency": rate / one, "seconds": seconds}


def _count(facts):
    """Steps of one measurement."""
    return _STEPS.value or max(3, calls_within(_SECONDS.value, facts["trial_step_seconds"]))


def _real_input(worker, count, batch_size):
    alone = worker.ask("input_alone", seconds=max(1.0, _SECONDS.value))
    rounds = [worker.ask("together", count=count) for _ in range(_ROUNDS.value)]
    seconds = float(np.median([r["seconds_a_step"] for r in rounds]))
    return {
        "pipeline_images_per_second": batch_size * alone["batches_per_second"],
        "together_images_per_second": batch_size / seconds,
        "waited_fraction": float(np.median([r["waited_fraction"] for r in rounds])),
        "rounds": rounds,
    }


if __name__ == "__main__":
    command.run(main)
