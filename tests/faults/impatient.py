"""launch.train with other patience: python -m tests.faults.impatient --wait_seconds=1 ..."""

import time

from absl import flags

from jax_pix2pix.runs.stores import remote_workdir, storage, store_checkpoints, store_lock
from launch import train
from launch.process import command

_WAIT = flags.DEFINE_float("wait_seconds", storage.WAIT_SECONDS, "for a store, at first")
_FINISH = flags.DEFINE_float("finish_seconds", remote_workdir.FINISH_SECONDS, "at the end")
_DEAD = flags.DEFINE_float(
    "dead_seconds", store_lock.DEAD_SECONDS, "for another run's sign of life"
)
_PAUSE_AT = flags.DEFINE_integer("pause_at", 0, "step whose checkpoint is made whole late")
_PAUSE = flags.DEFINE_float("pause_seconds", 600, "how late")


def main():
    storage.WAIT_SECONDS, remote_workdir.FINISH_SECONDS = _WAIT.value, _FINISH.value
    store_lock.DEAD_SECONDS = _DEAD.value
    commit = store_checkpoints.StoreCheckpoints._commit

    def late(self, step, *rest):
        if step == _PAUSE_AT.value:
            time.sleep(_PAUSE.value)
        commit(self, step, *rest)

    store_checkpoints.StoreCheckpoints._commit = late
    return train.main()


if __name__ == "__main__":
    command.run(main)
