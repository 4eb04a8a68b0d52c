"""Measurements of benchmarks: times, arithmetic, the machine's peaks, compilation and memory."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.interpreters import partial_eval
from jax.sharding import PartitionSpec

from jax_pix2pix.adversarial import train_step
from jax_pix2pix.runs.workdir import abstract_state, example_batch
from jax_pix2pix.sharding import batch_sharding


def summarise(seconds):
    """{"median", "p10", "p90"} of a list of seconds."""
    p10, median, p90 = np.percentile(seconds, [10, 50, 90]).tolist()
    return {"median": median, "p10": p10, "p90": p90}


def step_flops(system, config):
    """Floating-point operations of the convolutions in one training step of the global batch.

    A layer's convolution pairs each output with the taps of its window that lie inside the image;
    each pair costs a multiplication and an addition for each of in x out channels. With the number
    of pairs along one axis of length L -> M

        P = k M - (taps of all windows that fall into the padding),  k4 s2 p1: P = 4 M - 2,

    one pass over n images takes 2 n P**ndim c_in c_out operations, and the two gradients, which
    sum over the same pairs, as many each. A step has these passes:

        G           forward; gradient of the weights; gradient of the input except in layer one
        D, real     the same
        D, fake     the same
        D, fake     forward and gradient of the input, for G's loss: no gradient of the weights

    They are counted in the traced step, after removing all that no result depends on, so that
    any loss or network is counted as it is. Norms, losses (SSIM's filter among them) and Adam are
    left out: they are a few per cent.
    """
    batch = {
        name: jax.ShapeDtypeStruct((config.data.batch_size, *x.shape[1:]), x.dtype)
        for name, x in example_batch(config).items()
    }

    def step(state, batch):
        return train_step(system, state, batch, jax.random.key(0))

    return convolution_flops(step, abstract_state(system, config), batch)


def convolution_flops(function, *arguments):
    """Operations of the convolutions that the results of function(*arguments) depend on.

    arguments: pytrees of arrays or of their shapes and types.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _jaxpr_flops(needed)


def _jaxpr_flops(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            total += _conv_flops(equation)
            continue
        inner = [
            _jaxpr_flops(getattr(part, "jaxpr", part))
            for parameter in equation.params.values()
            for part in (parameter if isinstance(parameter, tuple | list) else (parameter,))
            if hasattr(part, "eqns")
        ]
        if equation.primitive.name == "cond":
            # platform_dependent's default comes last: the native form, which computes no padding.
            total += inner[-1]
        else:
            total += equation.params.get("length", 1) * sum(inner)  # scan length
    return total


def _conv_flops(equation):
    image, kernel = (variable.aval.shape for variable in equation.invars)
    output, p = equation.outvars[0].aval.shape, equation.params
    numbers = p["dimension_numbers"]
    pairs = 1
    for d, (low, _) in enumerate(p["padding"]):
        size, taps, outputs = (
            shape[spec[2 + d]] for shape, spec in zip((image, kernel, output), numbers, strict=True)
        )
        dilation = p["lhs_dilation"][d]
        place = (
            np.arange(outputs)[:, None] * p["window_strides"][d]
            + np.arange(taps) * p["rhs_dilation"][d]
            - low
        )
        real = (place >= 0) & (place <= (size - 1) * dilation) & (place % dilation == 0)
        pairs *= int(real.sum())
    n, c_out = (output[axis] for axis in numbers.out_spec[:2])
    c_in = kernel[numbers.rhs_spec[1]]
    return 2 * pairs * n * c_in * c_out


def xla_cost(compiled, devices):
    """XLA's own count, over all devices: {"flops", "bytes_accessed"}, None where it has none.

    XLA counts the optimised program of one device, including norms, the optimiser and added padding
    of blocks. It counts the body of a loop once, so that the figure is that of one step for any
    number of steps per call.
    """
    cost = compiled.cost_analysis() or {}
    names = {"flops": "flops", "bytes_accessed": "bytes accessed"}
    return {ours: cost[name] * devices if name in cost else None for ours, name in names.items()}


def timed_compile(lower, cache_dir):
    """Compiles with the persistent cache in cache_dir: cold if that is empty, else from it.

    Args:
        lower: () -> what jit's ``lower`` returns.

    Returns:
        (compiled, seconds of tracing, lowering and compiling).
    """
    settings: dict[str, Any] = {
        "jax_compilation_cache_dir": cache_dir,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _configure(settings)
    try:
        jax.clear_caches()
        start = time.perf_counter()
        compiled = lower().compile()
        return compiled, time.perf_counter() - start
    finally:
        _configure(before)


def _configure(settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else it stays in its first folder


def matmul_peak(mesh, dtype, size=None, seconds=1.0):
    """Operations per second of square matrix products, one on each device at a time."""
    size = size or (2048 if _platform(mesh) == "cpu" else 8192)
    operands = _on_each_device(mesh, (size, size), dtype)
    product = jax.jit(_each(mesh, lambda a: a @ a))
    return mesh.size * 2 * size**3 / _best_seconds(lambda: product(operands), seconds)


def rounds_to_tf32(device):
    """Whether float32 operands may be rounded to TF32: JAX's default on GPUs that have it."""
    exact = jax.config.jax_default_matmul_precision in ("highest", "float32")
    return device.platform == "gpu" and not exact


def copy_peak(mesh, megabytes=None, seconds=1.0):
    """Bytes per second, read and written, of updating an array in place on each device."""
    size = (megabytes or (256 if _platform(mesh) == "cpu" else 2048)) * 2**20 // 4
    array = _on_each_device(mesh, (size,), "float32")
    increment = jax.jit(_each(mesh, lambda a: a + 1), donate_argnums=0)

    def update():
        nonlocal array
        array = increment(array)
        return array

    return mesh.size * 2 * 4 * size / _best_seconds(update, seconds)


def _platform(mesh):
    return mesh.devices.flat[0].platform


def _on_each_device(mesh, shape, dtype):
    sharding = batch_sharding(mesh)
    return jax.jit(lambda: jnp.ones((mesh.size, *shape), dtype), out_shardings=sharding)()


def _each(mesh, function):
    """Applies function to each device's own row."""
    rows = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(lambda x: function(x[0])[None], mesh=mesh, in_specs=rows, out_specs=rows)


def _best_seconds(call, seconds):
    """Seconds of the fastest call, of as many as fit into `seconds` and at least three."""
    jax.block_until_ready(call())
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def device_memory_peak(devices):
    """Peak bytes of the fullest device so far; None on the CPU, which does not count them."""
    statistics = [device.memory_stats() for device in devices]
    if any(not stats or "peak_bytes_in_use" not in stats for stats in statistics):
        return None
    return max(stats["peak_bytes_in_use"] for stats in statistics)


def calls_within(seconds, seconds_a_call):
    """How many calls take about `seconds`, at least one."""
    return max(1, math.ceil(seconds / seconds_a_call))
