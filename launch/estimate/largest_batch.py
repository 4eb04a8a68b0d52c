"""Finds the largest batch whose training step fits into a TPU's memory, by compiling."""

from jax_pix2pix.errors import BenchmarkError
from launch.estimate import ahead_of_time, chips
from launch.estimate.compiled_program import DoesNotFit


def fitting(config, topology):
    """ahead_of_time.compile_step, with an error for the user if the step does not fit.

    Raises:
        BenchmarkError: the step does not fit; the message says by how much.
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
        return f"a {chip.name} has {chips.gib(chip.hbm)} GiB"
    return (
        f"it needs {chips.gib(error.used)} GiB of a {chip.name}'s {chips.gib(error.available)}, "
        f"{chips.gib(error.used - error.available)} too much"
    )


def largest(config, topology):
    """The program of the largest batch that fits. config.data.batch_size is set to that batch.

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
        print(f"{images} a chip: fits, {chips.gib(used)} GiB", flush=True)
        return program, used

    first = max(1, config.data.batch_size // topology.chips)
    images, program = bisect(program_of, first, topology.chip.hbm)
    config.data.batch_size = images * topology.chips
    return program


def bisect(program_of, first, available):
    """The largest number of images whose program fits, and that program.

    Doubles or halves until one number fits and another does not. Then tries the number at which a
    line through the memory of both reaches `available`. After a try that has not halved what is
    left, it tries the middle.

    Args:
        program_of: number of images -> (program, or None if it does not fit; bytes that it needs,
            or None if that is not known). It raises if 1 does not fit.
        first: number to begin with.
        available: bytes of memory.
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
