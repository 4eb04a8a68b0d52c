"""launch.train that tells how often it checked: python -m tests.faults.counted_checks ..."""

import collections
import functools

from jax_pix2pix import config_fields
from jax_pix2pix.runs.processes import same_everywhere
from jax_pix2pix.runs.processes.replicas import Replicas
from launch import train
from launch.process import command

CHECKS = {"fields": (config_fields, "check"), "processes": (same_everywhere, "_of_config")}


def main():
    counts, steps = collections.Counter(), []

    def counting(kind, function, *arguments):
        counts[kind] += 1
        return function(*arguments)

    for kind, (module, name) in CHECKS.items():
        setattr(module, name, functools.partial(counting, kind, getattr(module, name)))
    check = Replicas.check
    Replicas.check = lambda self, state, step: [steps.append(step), check(self, state, step)]
    code = train.main()
    print("checked:", dict(counts), steps)
    return code


if __name__ == "__main__":
    command.run(main)
