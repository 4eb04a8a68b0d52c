"""Compares the training step in PyTorch and JAX, in turns: A B A B, with a ratio per pair."""

import importlib.util
from typing import Any

import numpy as np

from jax_pix2pix.errors import BenchmarkError
from launch.benchmark.measures import calls_within
from launch.benchmark.processes import Worker

PEERS = {"lidc_mask2ct": "tests.oracle.benchmark_peer"}
VARIANTS = ("eager", "channels_last", "compile", "compile_channels_last")
DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # JAX's name of a platform: PyTorch's
TRIAL_SECONDS = 3


def check(system):
    """Raises BenchmarkError where PyTorch or a peer of the system is missing."""
    if system not in PEERS:
        raise BenchmarkError(
            f'--against=torch: "{system}" has no PyTorch peer; {", ".join(PEERS)} has'
        )
    for module, remedy in (
        ("torch", "run pip install -e '.[peer]'"),
        ("tests", "start the benchmark in the repository's root"),
    ):
        if importlib.util.find_spec(module) is None:
            raise BenchmarkError(f"--against=torch: there is no {module} here: {remedy}")


def fastest_peer(config, build):
    """Tries all variants, on the device and in the precision of JAX.

    build: facts from the process that measures JAX.

    Returns:
        (the Worker of the fastest, {"variant", "trial_seconds", "left_out", ...}).
    """
    platform, devices = build["platform"], build["devices"]
    if platform not in DEVICES or devices > 1:
        raise BenchmarkError(
            f"--against=torch: PyTorch's peer runs on one CPU or GPU, not on {devices} {platform} "
            "device(s): use --devices=1"
        )
    best: Any = None
    best_facts, trials, failures = {}, {}, {}
    for variant in VARIANTS:
        worker = Worker(PEERS[config["system"]])
        try:
            facts = worker.ask(
                "build",
                config=config,
                variant=variant,
                device=DEVICES[platform],
                tf32=build["tf32"],
            )
            count = calls_within(TRIAL_SECONDS, facts["trial_step_seconds"])
            seconds = worker.ask("steps", count=max(3, count))["seconds"]
        except BenchmarkError as error:
            worker.close()
            if not variant.startswith("compile"):
                if best:
                    best.close()
                raise
            failures[variant] = str(error)
            print(f"  torch {variant:22} left out: {error}", flush=True)
            continue
        trials[variant] = float(np.median(seconds))
        print(f"  torch {variant:22} {trials[variant]:.4f} s a step in the trial", flush=True)
        if trials[variant] == min(trials.values()):
            if best:
                best.close()
            best, best_facts = worker, facts | {"variant": variant}
        else:
            worker.close()
    return best, best_facts | {"trial_seconds": trials, "left_out": failures}


def compare(jax_worker, peer, counts, rounds):
    """Times step and generator in turn. -> the record of the comparison.

    counts: {"jax", "torch"}: number of steps in one measurement.
    """
    workers = {"jax": jax_worker, "torch": peer}
    record = {
        request: in_turn(workers, request, counts, rounds) for request in ("steps", "generator")
    }
    memory = {name: worker.ask("memory") for name, worker in workers.items()}
    ratio = memory["torch"]["bytes"] / memory["jax"]["bytes"]
    return record | {"peak_memory": memory, "memory_ratio": ratio}


def in_turn(workers, request, counts, rounds):
    """Asks {"jax": Worker, "torch": Worker} in turn. -> times, and ratios PyTorch / JAX.

    With JAX alone there are times and no ratios.
    """
    turns = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            turns[name].append(worker.ask(request, count=counts[name]))
    seconds = {name: [turn["seconds"] for turn in turns[name]] for name in workers}
    medians = {name: [float(np.median(s)) for s in seconds[name]] for name in workers}
    cpu = {name: [turn["cpu_seconds_a_step"] for turn in turns[name]] for name in workers}
    times = {"seconds": seconds, "round_medians": medians, "cpu_seconds_a_step": cpu}
    if "torch" not in workers:
        return times
    return times | {"ratio": _ratio(medians), "cpu_ratio": _ratio(cpu)}


def _ratio(values):
    """PyTorch's over JAX's, pair by pair: above 1, JAX takes less."""
    pairs = [b / a for a, b in zip(values["jax"], values["torch"], strict=True)]
    return {"median": float(np.median(pairs)), "min": min(pairs), "max": max(pairs)}
