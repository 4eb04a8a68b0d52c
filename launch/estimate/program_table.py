"""A compiled training step in lines of text, as launch.compile prints it."""

from launch.estimate import chips


def table(program):
    """The figures of a program, from `ahead_of_time.compile_step`, as lines of text."""
    memory, cost, bound = program["memory"], program["cost"], program["roofline"]
    chip = chips.topology(program["topology"]).chip
    peak = chip.flops[program["dtype"]]
    spare = memory["available"] - memory["total"]
    lines = [
        f"{program['system']}, {program['dtype']}, {program['chips']} {program['chip']} "
        f"({program['topology']}), mesh "
        + " x ".join(f"{name} {size}" for name, size in program["mesh"].items()),
        ", ".join(f"{name} {version}" for name, version in program["versions"].items()),
        f"global batch {program['batch_size']}, {program['batch_size_per_chip']} a chip; "
        "all figures are of one chip and step",
        "",
        f"memory, GiB           {chips.gib(memory['total'])} of {chips.gib(memory['available'])}: "
        f"fits, {chips.gib(spare)} to spare",
        f"                      arguments {chips.gib(memory['arguments'])}, outputs "
        f"{chips.gib(memory['outputs'])} ({chips.gib(memory['aliased'])} in place), temporary "
        f"{chips.gib(memory['temporary'])}, code {chips.gib(memory['code'])}",
        f"GFLOP                 {cost['flops'] / 1e9:.4g}; convolutions alone "
        f"{cost['flops_of_convolutions'] / 1e9:.4g}",
        f"GB from and to HBM    {cost['hbm_bytes'] / 1e9:.4g}; of all operands "
        f"{cost['operand_bytes'] / 1e9:.4g}; accesses as XLA counts "
        f"{cost['bytes_accessed'] / 1e9:.4g}",
        f"operations a byte     {cost['flops'] / cost['hbm_bytes']:.4g} of HBM; the chip's peaks "
        f"meet at {peak / chip.hbm_rate:.4g}",
        "",
        f"{'collective':22}{'chips':>6}{'arrays':>8}{'MB':>12}{'times':>7}{'ms':>10}",
    ]
    for c in program["collectives"]:
        lines.append(
            f"{c['kind']:22}{c['chips']:>6}{c['arrays']:>8}{c['bytes'] / 1e6:>12.6f}"
            f"{c['times']:>7}{1e3 * c['times'] * c['seconds']:>10.4f}"
        )
    total = sum(c["times"] * c["bytes"] for c in program["collectives"])
    lines += [
        f"{'all':22}{'':14}{total / 1e6:>12.6f}{'':7}{1e3 * bound['communication']:>10.4f}",
        "",
        f"at the chip's peaks   compute {1e3 * bound['compute']:.4g} ms, memory "
        f"{1e3 * bound['memory']:.4g} ms, communication {1e3 * bound['communication']:.4g} ms",
        _estimate("all overlapped", program, "overlapped"),
        _estimate("nothing overlapped", program, "not_overlapped"),
    ]
    return "\n".join(lines)


def _estimate(label, program, name):
    bound = program["roofline"]
    rate = program["batch_size"] / bound[name]
    return (
        f"{label:22}{1e3 * bound[name]:.4g} ms a step, {rate:.4g} images/s "
        f"({rate / program['chips']:.4g} a chip), scaling efficiency "
        f"{bound[f'efficiency_{name}']:.1%}"
    )
