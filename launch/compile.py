"""What a training step would cost on TPUs, compiled for them ahead of time, without any.

    python -m launch.compile --config=configs/lidc_mask2ct.py --topology=v5e:16x16
    python -m launch.compile --config=… --topology=v5e:2x2 --fit --output=FILE.json

Prints, and writes as JSON, the memory of a chip, operations and bytes, every collective, and an
estimate of the step's time from the chip's peaks (launch/roofline.py). Needs the extra "tpu".
config.data.batch_size is over all chips. --fit compiles with more and fewer images a chip until it
has the largest batch that fits. Of a pyramid it is the step of config.pyramid.scale.
"""

import datetime
import json
import sys

from absl import flags
from ml_collections import config_flags

from jax_pix2pix.errors import BenchmarkError
from launch import ahead_of_time, chips, command
from launch.benchmark import options
from launch.compiled_program import DoesNotFit

_CONFIG = config_flags.DEFINE_config_file("config", None, "a run's config, file.py[:variant]")
_TOPOLOGY = flags.DEFINE_string("topology", None, f"a slice of TPUs: {chips.EXAMPLES}")
_FIT = flags.DEFINE_bool("fit", False, "find the largest batch that fits")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file")
flags.mark_flags_as_required(["config", "topology"])


def main():
    config, topology = _CONFIG.value, chips.topology(_TOPOLOGY.value)
    if _OUTPUT.value:
        options.claim(_OUTPUT.value)
    program = largest(config, topology) if _FIT.value else fitting(config, topology)
    if _OUTPUT.value:
        record = {
            "command": ["python", "-m", "launch.compile", *sys.argv[1:]],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": json.loads(config.to_json()),
            **program,
        }
        with open(_OUTPUT.value, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    print(table(program))
    if _OUTPUT.value:
        print(f"\nall figures: {_OUTPUT.value}")


def fitting(config, topology):
    """ahead_of_time.compile_step, where a step that does not fit is an error for the user.

    Raises:
        BenchmarkError: says by how much it does not fit.
    """
    try:
        return ahead_of_time.compile_step(config, topology)
    except DoesNotFit as error:
        raise BenchmarkError(
            f"config.data.batch_size={config.data.batch_size}, "
            f"{config.data.batch_size // topology.chips} a chip, does not fit: "
            f"{_excess(error, topology.chip)}; --fit finds the largest that fits"
        ) from None


def _excess(error, chip):
    if error.used is None:
        return f"a {chip.name} has {_gib(chip.hbm)} GiB"
    return (
        f"it needs {_gib(error.used)} GiB of a {chip.name}'s {_gib(error.available)}, "
        f"{_gib(error.used - error.available)} too much"
    )


def largest(config, topology):
    """The program of the largest batch that fits; config gets that batch.

    Raises:
        BenchmarkError: not even one image a chip fits.
    """

    def program_of(images):
        config.data.batch_size = images * topology.chips
        try:
            program = ahead_of_time.compile_step(config, topology)
        except DoesNotFit as error:
            print(f"{images} a chip: does not fit, {_excess(error, topology.chip)}", flush=True)
            if images == 1:
                raise BenchmarkError(
                    f"one image a chip does not fit: {_excess(error, topology.chip)}"
                ) from None
            return None, error.used
        used = program["memory"]["total"]
        print(f"{images} a chip: fits, {_gib(used)} GiB", flush=True)
        return program, used

    first = max(1, config.data.batch_size // topology.chips)
    images, program = bisect(program_of, first, topology.chip.hbm)
    config.data.batch_size = images * topology.chips
    return program


def bisect(program_of, first, available):
    """The largest number of images whose program fits, and that program.

    Doubles or halves until one number fits and another does not. Then tries where a line through
    the memory of both meets what is available, and, when that has not halved what is left, the
    middle.

    Args:
        program_of: number of images -> (program, or None if it does not fit; bytes that it needs,
            or None if that is not known). It raises where 1 does not fit.
        first: number to begin with.
        available: bytes.
    """
    fits, too_many = {}, {}
    images = first
    while not fits or not too_many:
        program, used = program_of(images)
        if program is None:
            too_many = {images: used}
            images //= 2
        else:
            fits = {images: (program, used)}
            images *= 2
    middle = False
    while True:
        (low, (program, low_used)), (high, high_used) = *fits.items(), *too_many.items()
        if high - low == 1:
            return low, program
        images = (low + high) // 2
        if not middle and high_used is not None and high_used > low_used:
            share = (available - low_used) / (high_used - low_used)
            images = min(max(low + int(share * (high - low)), low + 1), high - 1)
        new, used = program_of(images)
        if new is None:
            too_many = {images: used}
        else:
            fits = {images: (new, used)}
        (new_low,), (new_high,) = fits, too_many
        middle = not middle and new_high - new_low > (high - low) / 2


def _gib(size):
    return f"{size / chips.GIB:.2f}"


def table(program):
    """Lines of text."""
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
        f"memory, GiB           {_gib(memory['total'])} of {_gib(memory['available'])}: fits, "
        f"{_gib(spare)} to spare",
        f"                      arguments {_gib(memory['arguments'])}, outputs "
        f"{_gib(memory['outputs'])} ({_gib(memory['aliased'])} in place), temporary "
        f"{_gib(memory['temporary'])}, code {_gib(memory['code'])}",
        f"GFLOP                 {cost['flops'] / 1e9:.4g}; convolutions alone "
        f"{cost['flops_of_convolutions'] / 1e9:.4g}",
        f"GB accessed           {cost['bytes_accessed'] / 1e9:.4g}, those in the chip's own memory "
        "too",
        f"operations a byte     {cost['flops'] / cost['bytes_accessed']:.4g}; the chip's peaks "
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


if __name__ == "__main__":
    command.run(main)
