"""launch.train whose data never comes: python -m tests.faults.hung_reader --hang_at=5 ..."""

import threading

import jax
from absl import flags

from input_pipeline import pipeline
from launch import train
from launch.process import command

_AT = flags.DEFINE_integer("hang_at", 0, "the step whose batch the last process waits for")


def _wait_for_the_file_server():
    threading.Event().wait()


def main():
    train_batches = pipeline.train_batches

    def hanging(data, start_step, *arguments):
        batches = train_batches(data, start_step, *arguments)
        for step, batch in enumerate(batches, start_step + 1):
            if step == _AT.value and jax.process_index() == jax.process_count() - 1:
                _wait_for_the_file_server()
            yield batch

    pipeline.train_batches = hanging
    return train.main()


if __name__ == "__main__":
    command.run(main)
