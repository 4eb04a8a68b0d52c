"""Checks on CPU devices what `launch.scaling` assumes about a step's collectives.

    python -m launch.check_scaling --config=configs/lidc_mask2ct.py

Compiles the step for 1, 2, 4 and 8 devices and compares its collectives with those on two: the
numbers of collectives, arrays and bytes must be equal, and each collective must span all devices.
One device must have none. It says nothing about time, as CPU devices share the cores. The exit code
is 1 if the assumption fails.
"""

import jax
from absl import flags
from ml_collections import config_flags

from jax_pix2pix import sharding
from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.fit import lower_step
from jax_pix2pix.runs import workdir
from launch.estimate import compiled_program
from launch.process import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "a run's config, file.py[:variant]")
flags.mark_flag_as_required("config")

DEVICES = (1, 2, 4, 8)


def main():
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES[-1])
    config = _CONFIG.value
    if config.fsdp > 1:
        raise ConfigError("config.fsdp: launch.scaling is of steps that are not split, fsdp=1")
    config.data.batch_size = DEVICES[-1]
    config.steps_per_epoch = 1000
    system = workdir.build_system(config)
    abstract = workdir.abstract_state(system, config)
    gradients = {
        name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(network.params))
        for name, network in (("G", abstract.generator), ("D", abstract.discriminator))
    }
    print(
        f"{config.system}, {config.dtype}: parameters of G {gradients['G']:,} bytes, of D "
        f"{gradients['D']:,}"
    )
    print(f"{'devices':>8}{'collectives':>12}{'arrays':>8}{'bytes':>16}{'as predicted':>14}")
    expected, wrong = None, []
    for devices in DEVICES:
        mesh = sharding.make_mesh(1, config.data.batch_size, devices)
        compiled = lower_step(system, config, mesh, abstract)[0].compile()
        found = compiled_program.collectives(compiled.as_text(), devices)
        facts = (
            len(found),
            sum(c.times * c.arrays for c in found),
            sum(c.times * c.bytes for c in found),
        )
        if devices == 2:
            expected = facts
        alone = devices == 1 and not found
        over_all = all(c.group_size == devices for c in found)
        right = alone or (devices > 1 and facts == expected and over_all)
        if not right:
            wrong.append(devices)
        print(
            f"{devices:>8}{facts[0]:>12}{facts[1]:>8}{facts[2]:>16,}{'yes' if right else 'NO':>14}"
        )
    if wrong:
        raise BenchmarkError(f"on {wrong} devices the collectives are not those of two devices")


if __name__ == "__main__":
    command.run(main)
