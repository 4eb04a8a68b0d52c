"""launch.train with less patience: python -m tests.faults.impatient --wait_seconds=1 ..."""

from absl import flags

from jax_pix2pix.runs import remote_workdir, storage
from launch import train
from launch.process import command

_WAIT = flags.DEFINE_float("wait_seconds", storage.WAIT_SECONDS, "for a store, at first")
_FINISH = flags.DEFINE_float("finish_seconds", remote_workdir.FINISH_SECONDS, "at the end")


def main():
    storage.WAIT_SECONDS, remote_workdir.FINISH_SECONDS = _WAIT.value, _FINISH.value
    return train.main()


if __name__ == "__main__":
    command.run(main)
