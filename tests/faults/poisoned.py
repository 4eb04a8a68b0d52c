"""launch.train with bad batches: python -m tests.faults.poisoned --poisoned_steps=4,5 ..."""

import dataclasses

import jax
import jax.numpy as jnp
from absl import flags

from input_pipeline import pipeline
from jax_pix2pix.systems import SYSTEMS
from launch import train
from launch.process import command

MARK = 255  # a source that is this everywhere is bad

_STEPS = flags.DEFINE_list("poisoned_steps", [], "the last process's first image is bad in these")


def poison(system, value):
    """A System that sees `value` in place of an image that is MARK everywhere."""

    def source(stored):
        bad = (stored == MARK).all(tuple(range(1, stored.ndim)), keepdims=True)
        return jnp.where(bad, value, system.source(stored))

    return dataclasses.replace(system, source=source)


def main():
    build = SYSTEMS["lidc_mask2ct"]
    SYSTEMS["lidc_mask2ct"] = lambda config: poison(build(config), jnp.nan)
    train_batches = pipeline.train_batches

    def with_bad_ones(data, start_step, *arguments):
        bad = {int(step) for step in _STEPS.value}
        batches = train_batches(data, start_step, *arguments)
        for step, batch in enumerate(batches, start_step + 1):
            if step in bad and jax.process_index() == jax.process_count() - 1:
                batch = batch | {"source": batch["source"].copy()}
                batch["source"][0] = MARK
            yield batch

    pipeline.train_batches = with_bad_ones
    return train.main()


if __name__ == "__main__":
    command.run(main)
