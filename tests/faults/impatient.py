"""launch.train with less patience: python -m tests.faults.impatient --wait_seconds=1 ..."""

from absl import flags

from jax_pix2pix.runs.stores import remote_workdir, storage, store_lock
from launch import train
from launch.process import command

_WAIT = flags.DEFINE_float("wait_seconds", storage.WAIT_SECONDS, "for a store, at first")
_FINISH = flags.DEFINE_float("finish_seconds", remote_workdir.FINISH_SECONDS, "at the end")
_DEAD = flags.DEFINE_float(
    "dead_seconds", store_lock.DEAD_SECONDS, "for another run's sign of life"
)
_LOOK = flags.DEFINE_float("look_seconds", remote_workdir.LOOK_SECONDS, "between copies")


def main():
    storage.WAIT_SECONDS, remote_workdir.FINISH_SECONDS = _WAIT.value, _FINISH.value
    store_lock.DEAD_SECONDS, remote_workdir.LOOK_SECONDS = _DEAD.value, _LOOK.value
    return train.main()


if __name__ == "__main__":
    command.run(main)
