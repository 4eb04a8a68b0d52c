"""launch.train with a slow reader: python -m tests.faults.slow_reader --slow=1 --seconds=0.3 ..."""

import time

import jax
from absl import flags

from input_pipeline import pipeline
from launch import train
from launch.process import command

_SLOW = flags.DEFINE_integer("slow", 0, "the process whose batches come late")
_SECONDS = flags.DEFINE_float("seconds", 0.0, "so late is each")


def main():
    train_batches = pipeline.train_batches

    def late(*arguments):
        for batch in train_batches(*arguments):
            if jax.process_index() == _SLOW.value:
                time.sleep(_SECONDS.value)
            yield batch

    pipeline.train_batches = late
    return train.main()


if __name__ == "__main__":
    command.run(main)
