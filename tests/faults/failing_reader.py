"""launch.train with a faulty reader: python -m tests.faults.failing_reader --fail_at=5 ..."""

import jax
from absl import flags

from input_pipeline import pipeline
from launch import train
from launch.process import command

_AT = flags.DEFINE_integer("fail_at", 0, "the step whose batch the last process cannot read")


def main():
    train_batches = pipeline.train_batches

    def failing(data, start_step, *arguments):
        batches = train_batches(data, start_step, *arguments)
        for step, batch in enumerate(batches, start_step + 1):
            if step == _AT.value and jax.process_index() == jax.process_count() - 1:
                raise KeyError("a mistake")
            yield batch

    pipeline.train_batches = failing
    return train.main()


if __name__ == "__main__":
    command.run(main)
