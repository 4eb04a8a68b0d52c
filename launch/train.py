"""Trains a run, or resumes it: python -m launch.train --config=CONFIG --workdir=DIR"""

from absl import flags

from input_pipeline.dataset import Dataset
from jax_pix2pix.errors import EXIT_RESTART
from jax_pix2pix.logs.clock import Clock, process_age
from jax_pix2pix.runs.processes.first_process import refusing_together
from jax_pix2pix.runs.stores import remote_workdir
from jax_pix2pix.start import Start
from jax_pix2pix.train import check, train
from launch.process import command, distributed, lost_process, trackers, train_flags

flags.mark_flags_as_required(["config", "workdir"])


def main():
    config, clock = train_flags.CONFIG.value, Clock(process_age())
    distributed.initialize(config.heartbeat_seconds)
    with refusing_together():  # ends before devices are started, which would wait for all
        profile_steps = train_flags.profile_steps()
    with refusing_together():
        start = Start(
            allowed=train_flags.ALLOWED.value,
            clock=clock,
            trackers=trackers.chosen(config.system, train_flags.WORKDIR.value),
            coordinator=distributed.coordinator(),
            submission=train_flags.SUBMISSION.value,
            profile_steps=profile_steps,
            init_from=train_flags.INIT_FROM.value,
            init_checkpoint=train_flags.INIT_CHECKPOINT.value,
            checked=True,
        )
    check(config, start)  # before a store is read
    with remote_workdir.training(train_flags.WORKDIR.value) as directory:
        lost_process.log_to(directory)
        finished = train(config, directory, Dataset(config.data, prepare=True), start)
    if not finished:
        print("stopped on request and saved; the same command goes on from here")
        return EXIT_RESTART
    return 0


if __name__ == "__main__":
    command.run(main)
