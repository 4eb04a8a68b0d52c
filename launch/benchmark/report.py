"""The table of ``launch.benchmark`` and the machine that it names."""

import os
import platform


def machine():
    """Facts about the machine and environment that the figures depend on, besides versions."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "system": platform.platform(),
        "environment": {
            name: os.environ[name]
            for name in (
                "XLA_FLAGS",
                "JAX_PLATFORMS",
                "OMP_NUM_THREADS",
                "LD_PRELOAD",
                "GLIBC_TUNABLES",
            )
            if name in os.environ
        },
    }


def available_cores():
    """Cores that this process may use; JAX and PyTorch get as many threads each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(record):
    """Lines of text with a column per batch size."""
    results = record["results"]
    first, machine = results[0], record["machine"]
    versions = dict(first["versions"])
    if first["against_torch"]:
        versions["torch"] = first["against_torch"]["torch"]
    head = [
        f"{first['devices']} {first['device_kind']} in {first['processes']} process(es), "
        f"{machine['cores']} cores of {machine['cpu']}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"{record['config']['system']}, {first['dtype']}, steps per call {first['steps_per_call']}",
    ]
    rows = [("batch size", [str(r["batch_size"]) for r in results])]
    for label, form in ROWS:
        cells = [_cell(form, result) for result in results]
        if any(cells):
            rows.append((label, cells))
    lines = [f"{label:44}" + "".join(f"{cell:>24}" for cell in cells) for label, cells in rows]
    return "\n".join([*head, "", *lines])


def _cell(form, result):
    try:
        return form(result)
    except TypeError:  # None: not measured
        return ""


def _range(ratio):
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"


ROWS = (
    ("compile, s", lambda r: f"{r['compile_seconds']['cold']:.1f}"),
    ("  from the persistent cache, s", lambda r: f"{r['compile_seconds']['cached']:.1f}"),
    ("step, median s", lambda r: f"{r['step_seconds']['median']:.4g}"),
    ("  10th percentile", lambda r: f"{r['step_seconds']['p10']:.4g}"),
    ("  90th percentile", lambda r: f"{r['step_seconds']['p90']:.4g}"),
    ("images/s", lambda r: f"{r['images_per_second']:.4g}"),
    ("  per device", lambda r: f"{r['images_per_second_per_device']:.4g}"),
    ("  one device alone", lambda r: f"{r['scaling']['one_device_images_per_second']:.4g}"),
    ("  efficiency of all", lambda r: f"{r['scaling']['efficiency']:.1%}"),
    ("GFLOP a step, convolutions", lambda r: f"{r['flops_a_step']['analytic'] / 1e9:.4g}"),
    ("  XLA's count", lambda r: f"{r['flops_a_step']['xla'] / 1e9:.4g}"),
    ("matmul peak, GFLOP/s", lambda r: f"{r['peaks']['matmul_flops_per_second'] / 1e9:.4g}"),
    ("  share that the convolutions reach", lambda r: f"{r['share_of_matmul_peak']:.1%}"),
    ("copy peak, GB/s", lambda r: f"{r['peaks']['copy_bytes_per_second'] / 1e9:.4g}"),
    ("  share, by XLA's count of bytes", lambda r: f"{r['share_of_copy_peak']:.1%}"),
    (
        "peak memory, GiB",
        lambda r: f"{r['peak_memory']['bytes'] / 2**30:.2f} {r['peak_memory']['of']}",
    ),
    ("input alone, images/s", lambda r: f"{r['real_input']['pipeline_images_per_second']:.4g}"),
    ("step and input, images/s", lambda r: f"{r['real_input']['together_images_per_second']:.4g}"),
    ("  waiting for input", lambda r: f"{r['real_input']['waited_fraction']:.1%}"),
    ("PyTorch's fastest variant", lambda r: r["against_torch"]["variant"]),
    ("step, PyTorch / JAX", lambda r: _range(r["against_torch"]["steps"]["ratio"])),
    ("  CPU seconds", lambda r: _range(r["against_torch"]["steps"]["cpu_ratio"])),
    ("  peak memory", lambda r: f"{r['against_torch']['memory_ratio']:.2f}"),
    (
        "generator forward, PyTorch / JAX",
        lambda r: _range(r["against_torch"]["generator"]["ratio"]),
    ),
    ("  CPU seconds", lambda r: _range(r["against_torch"]["generator"]["cpu_ratio"])),
)
