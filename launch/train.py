"""Trains a system: python -m launch.train --config=configs/lidc_mask2ct.py --workdir=DIR"""

import os

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from input_pipeline import order, pipeline
from jax_pix2pix import device_cache, sharding, workdir
from jax_pix2pix.fit import fit
from launch import command, distributed

_CONFIG = config_flags.DEFINE_config_file("config", None, "the run's config, file.py[:variant]")
_WORKDIR = flags.DEFINE_string("workdir", None, "where the run writes; resumed if it exists")
flags.mark_flags_as_required(["config", "workdir"])

SAMPLES = 8  # validation examples in a picture, from the first to the last


def main():
    distributed.initialize()
    if not train(_CONFIG.value, _WORKDIR.value):
        print("stopped on request and saved; the same command goes on from here")
        return command.EXIT_RESTART
    return 0


def train(config, directory):
    """Prepares the data if it is a sample, prints the plan and fits. -> whether it finished."""
    pipeline.ensure_prepared(config.data)
    examples = pipeline.num_training_examples(config.data)
    config.steps_per_epoch = order.steps_per_epoch(examples, config.data.batch_size)
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size)
    host, hosts = sharding.host_rows(mesh, config.data.batch_size)
    system = workdir.build_system(config)
    pipeline.check_training(config.data)
    dataset = None
    if config.data.cache == "device":
        dataset = device_cache.put(pipeline.train_set(config.data), mesh)
    workdir.claim(directory, config, write=jax.process_index() == 0)
    if jax.process_index() == 0:
        print_plan(config, system, mesh, examples)

    total_steps = config.epochs * config.steps_per_epoch
    candidates = pipeline.num_evaluation_examples(config.data, "validation")
    samples = np.unique(np.linspace(0, candidates - 1, SAMPLES).astype(int))
    patients = [example.patient for example in pipeline.examples(config.data, "validation")]
    finished = fit(
        system,
        config,
        mesh,
        directory,
        lambda start: pipeline.train_batches(config.data, start, total_steps, host, hosts),
        lambda: pipeline.eval_batches(config.data, "validation", host, hosts),
        patients,
        lambda: pipeline.eval_batches(config.data, "validation", host, hosts, samples),
        dataset,
    )
    if finished and jax.process_index() == 0:
        picture = os.path.join(directory, "samples", f"epoch_{config.epochs:04d}.png")
        print(f"finished {config.epochs} epochs; pictures: {picture}")
    return finished


def print_plan(config, system, mesh, examples):
    """What is about to happen, before anything expensive does."""
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
        f"steps        {config.epochs} epochs of {config.steps_per_epoch} steps, "
        f"{config.epochs * config.steps_per_epoch} in all",
        flush=True,
    )


if __name__ == "__main__":
    command.run(main)
