"""Trains a system: python -m launch.train --config=configs/lidc_mask2ct.py --workdir=DIR"""

import functools
import os
import shutil

import jax
import numpy as np
from absl import flags

from input_pipeline import order, pipeline, prepared
from input_pipeline.prepared_files import RECORD
from jax_pix2pix import device_cache, pyramid, sharding
from jax_pix2pix.logs import process_log
from jax_pix2pix.runs import workdir, workdir_lock
from jax_pix2pix.logs.clock import Clock, process_age
from jax_pix2pix.errors import EXIT_RESTART, WorkdirError
from jax_pix2pix.runs.first_process import on_first_process
from jax_pix2pix.fit import fit
from jax_pix2pix.logs.logbook import Logbook
from launch.process import command, distributed, remote_workdir, trackers, train_flags
from launch import goodput

flags.mark_flags_as_required(["config", "workdir"])

SAMPLES = 8  # validation examples in a picture, from the first to the last


def main():
    config, clock = train_flags.CONFIG.value, Clock(process_age())
    distributed.initialize(config.heartbeat_seconds)
    chosen = trackers.chosen(config.system, train_flags.WORKDIR.value)
    with remote_workdir.training(train_flags.WORKDIR.value) as directory:
        finished = train(config, directory, train_flags.ALLOWED.value, clock, trackers=chosen)
    if not finished:
        print("stopped on request and saved; the same command goes on from here")
        return EXIT_RESTART
    return 0


def train(
    config,
    directory,
    allowed=(),
    clock=None,
    steps_per_epoch=None,
    train_batches=None,
    trackers=(),
):
    """Prepares the data if it is a sample, prints the plan and fits. -> whether it finished.

    Args:
        config: ConfigDict.
        directory: the workdir; no other run may use it meanwhile.
        allowed: fields of the config that may differ from the workdir's.
        clock: of the process; by default it begins here.
        steps_per_epoch: by default those of one pass over the data.
        train_batches: called as pipeline.train_batches, which is the default.
        trackers: as `Logbook` has them.
    """
    clock = clock or Clock()
    workdir.check_changeable(config, allowed)
    try:
        with workdir_lock.locked(directory):
            finished = _train(
                config, directory, allowed, clock, steps_per_epoch, train_batches, trackers
            )
            if jax.process_index() == 0:
                goodput.report_end(directory)
            return finished
    except OSError as error:
        if error.filename is not None:  # else it is of writing to a file that is open
            raise
        raise WorkdirError(
            f"{directory} cannot be written ({error.strerror}): make room and start again"
        ) from error


def _train(config, directory, allowed, clock, steps_per_epoch, train_batches, trackers):
    data_directory = prepared.ensure_prepared(config.data)
    examples = pipeline.num_training_examples(config.data)
    one_pass = order.steps_per_epoch(examples, config.data.batch_size)
    config.steps_per_epoch = steps_per_epoch or one_pass
    train_batches = train_batches or pipeline.train_batches
    if "pyramid" in config:
        training = prepared.examples(config.data, "train")
        config.data.spacing_mm = prepared.spacing_mm(config.data, training)
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size)
    host, hosts = sharding.host_rows(mesh, config.data.batch_size)
    configs = pyramid.scales(config) if "pyramid" in config else [config]
    systems = [workdir.build_system(scale_config) for scale_config in configs]
    pipeline.check_training(config.data)
    for system, scale_config in zip(systems, configs, strict=True):
        workdir.check_sizes(system, scale_config)
    dataset = None
    if config.data.cache == "device":
        dataset = device_cache.put(pipeline.train_set(config.data), mesh)

    def claim():
        workdir.claim(directory, config, allowed)
        shutil.copyfile(data_directory / RECORD, os.path.join(directory, RECORD))

    on_first_process(claim)
    process_log.start(directory, distributed.coordinator())
    if jax.process_index() == 0:
        epochs = sum(scale_config.epochs for scale_config in configs)
        print_plan(config, systems[-1], mesh, examples, epochs)

    # A pyramid is judged by how it makes its training volumes again.
    split = "train" if "pyramid" in config else "validation"
    candidates = pipeline.num_evaluation_examples(config.data, split)
    samples = np.unique(np.linspace(0, candidates - 1, SAMPLES).astype(int))
    patients = [example.patient for example in prepared.examples(config.data, split)]

    def run(config, directory, warm_start=None, title=None):
        total_steps = config.epochs * config.steps_per_epoch
        fields = dict(workdir.flat(config.to_dict()))
        finished = fit(
            workdir.build_system(config),
            config,
            mesh,
            directory,
            lambda start: train_batches(config.data, start, total_steps, host, hosts),
            lambda: pipeline.eval_batches(config.data, split, host, hosts),
            patients,
            lambda: pipeline.eval_batches(config.data, split, host, hosts, samples),
            dataset,
            warm_start,
            functools.partial(Logbook, title=title, config=fields, trackers=trackers),
            clock,
        )
        if finished and jax.process_index() == 0:
            picture = os.path.join(directory, "samples", f"epoch_{config.epochs:04d}.png")
            print(f"finished {config.epochs} epochs; pictures: {remote_workdir.as_given(picture)}")
        return finished

    if "pyramid" not in config:
        return run(config, directory)

    def run_scale(config, directory, warm_start, title):
        on_first_process(lambda: workdir.claim(directory, config, allowed))
        return run(config, directory, warm_start, title)

    return pyramid.fit_scales(
        config, directory, run_scale, lambda: pipeline.eval_batches(config.data, "train")
    )


def print_plan(config, system, mesh, examples, epochs):
    """What is about to happen, before anything expensive does; of a pyramid, at all scales."""
    abstract = workdir.abstract_state(system, config)

    def size(network):
        return sum(x.size for x in jax.tree.leaves(network.params))

    shape = " x ".join(f"{name} {n}" for name, n in mesh.shape.items())
    print(
        f"system       {config.system}, {config.dtype}\n"
        f"parameters   generator {size(abstract.generator):,}, "
        f"discriminator {size(abstract.discriminator):,}\n"
        f"devices      {mesh.devices.size} {jax.devices()[0].device_kind} "
        f"in {jax.process_count()} process(es), mesh {shape}\n"
        f"data         {examples} training examples, global batch {config.data.batch_size}\n"
        f"steps        {epochs} epochs of {config.steps_per_epoch} steps, "
        f"{epochs * config.steps_per_epoch} in all",
        flush=True,
    )


if __name__ == "__main__":
    command.run(main)
