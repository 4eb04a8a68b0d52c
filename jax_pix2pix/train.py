"""Trains a run from a config and a data set, or resumes from the checkpoints in its workdir."""

import functools
import os

import jax
import numpy as np

from jax_pix2pix import config_fields, device_cache, pyramid, sharding
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.fit import Batches, fit
from jax_pix2pix.logs import goodput, process_log
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs import (
    initial_weights,
    known_patients,
    restarts,
    workdir,
    workdir_files,
    workdir_lock,
)
from jax_pix2pix.runs.processes import same_everywhere
from jax_pix2pix.runs.processes.first_process import on_first_process, refusing_together
from jax_pix2pix.runs.stores.remote_workdir import as_given
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.start import Start
from jax_pix2pix.tasks.kinds import has_scales

SAMPLES = 8  # validation examples in a picture, evenly spaced


def check(config, start):
    """Refuses fields that do not fit, and processes that were not started alike; all call this.

    Raises:
        ConfigError: names the field or what differs.
    """
    with refusing_together():
        config_fields.check(config.to_dict())
        workdir_files.check_changeable(config, start.allowed)
        if start.init_checkpoint != "last" and not start.init_from:
            raise ConfigError(
                f"--init_checkpoint={start.init_checkpoint} is of --init_from: give that too"
            )
        given = {"--allow_config_change": sorted(start.allowed), "--submission": start.submission}
        given |= {"--init_from": start.init_from, "--init_checkpoint": start.init_checkpoint}
        same_everywhere.check_run(config, given | {"--profile_steps": start.profile_steps})


def train(config, directory, dataset, start=None):
    """Trains to the last epoch; a pyramid trains scale after scale.

    Args:
        config: ConfigDict; fields that follow from the data are filled in.
        directory: the workdir; no other run may use it meanwhile.
        dataset: input_pipeline.Dataset of config.data.
        start: Start; by default one without options.

    Returns:
        Whether it finished; False if the machine asked the run to stop, which is then saved.

    Raises:
        ConfigError, DataError, WorkdirError: something does not fit, before any training.
        WorkdirError: also if the workdir cannot be written.
        OSError: also if it holds links, pipes or devices.
        TrainingError: training went wrong.
    """
    start, directory = start or Start(), expanded(directory)
    if not start.checked:
        check(config, start)
    try:
        with workdir_lock.locked(directory):
            on_first_process(lambda: workdir_files.check_files(directory))
            with restarts.counted(directory, start.submission):
                scales, batches, mesh = _prepared(config, dataset, start.profile_steps)
                begun = on_first_process(
                    lambda: initial_weights.recorded(
                        directory, start.init_from, start.init_checkpoint, scales
                    )
                )
                on_first_process(lambda: _claim(config, directory, dataset, start.allowed, begun))
                process_log.start(directory, start.coordinator)
                if jax.process_index() == 0:
                    messages.info(plan(config, scales, mesh, dataset.num_training_examples, begun))
                run = functools.partial(_fit, mesh, batches, start)
                begin = functools.partial(_begin, begun) if start.init_from else None
                if has_scales(config):
                    finished = _fit_scales(scales, directory, start.allowed, run, dataset, begin)
                else:
                    warm_start = begin and functools.partial(begin, 0, None)
                    finished = run(*scales[0], directory, warm_start)
            if jax.process_index() == 0:
                goodput.report_end(directory)
            return finished
    except OSError as error:
        if error.filename is not None:  # else a write to an open file failed
            raise
        raise WorkdirError(
            f"{directory} cannot be written ({error.strerror}): make room and start again"
        ) from error


@refusing_together()
def _prepared(config, dataset, profile_steps):
    """Checks all that may be refused, on all processes. -> (scales, batches, mesh).

    scales: [(config, System)], coarsest first, or the only one. batches: such a config -> Batches.
    """
    config.steps_per_epoch = dataset.steps_per_epoch
    total_steps = config.epochs * config.steps_per_epoch
    if profile_steps and profile_steps[1] > total_steps:
        first, last = profile_steps
        raise ConfigError(f"--profile_steps={first}:{last}: the run has {total_steps} steps")
    if has_scales(config):
        config.data.spacing_mm = dataset.spacing_mm()
    same_everywhere.check_data(dataset)
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size, accumulate=config.accumulate)
    configs = pyramid.scales(config) if has_scales(config) else [config]
    for one in configs:
        config_fields.check_steps(one)
    scales = [(one, workdir.system_of(one)) for one in configs]
    dataset.check_training()
    for one, system in scales:
        workdir.check_sizes(system, one)
    cached = None
    if config.data.cache == "device":
        cached = device_cache.put(dataset.train_set(), mesh)
    return scales, functools.partial(_batches, dataset, mesh, cached), mesh


def _claim(config, directory, dataset, allowed, begun):
    if begun:  # first, since a claimed workdir without this record began with fresh weights
        os.makedirs(directory, exist_ok=True)
        initial_weights.write(directory, begun)
    workdir_files.claim(directory, config, allowed)
    limits = {
        workdir_files.RECORD: safe_files.MAX_JSON,
        known_patients.MANIFEST: known_patients.MAX_BYTES,
    }
    for name, limit in limits.items():
        content = safe_files.read(os.path.join(dataset.directory, name), limit, dataset.directory)
        safe_files.write(os.path.join(directory, name), content, directory)


def _batches(dataset, mesh, cached, config):
    """The Batches of a run, or of a scale, with this config."""
    host, hosts = sharding.host_rows(mesh, config.data.batch_size)
    total_steps = config.epochs * config.steps_per_epoch
    # A pyramid is judged by how well it reconstructs its training volumes.
    split = "train" if has_scales(config) else "validation"
    candidates = dataset.num_evaluation_examples(split)
    shown = np.unique(np.linspace(0, candidates - 1, SAMPLES).astype(int))
    return Batches(
        train=lambda start: dataset.train_batches(start, total_steps, host, hosts),
        validation=lambda: dataset.eval_batches(split, host, hosts),
        groups=dataset.patients(split),
        shown=lambda: dataset.eval_batches(split, host, hosts, shown),
        cached=cached,
    )


def _fit(mesh, batches, start, config, system, directory, warm_start=None, title=None):
    """Fits one system, or one scale. -> whether it finished."""
    finished = fit(system, config, mesh, directory, batches(config), start, warm_start, title)
    if finished and jax.process_index() == 0:
        picture = os.path.join(directory, "samples", f"epoch_{config.epochs:04d}.png")
        messages.info(f"finished {config.epochs} epochs; pictures: {as_given(picture)}")
    return finished


def _begin(begun, scale, grow, state, shardings):
    """The state that a run begins with, or a scale, once it has grown from the coarser one."""
    grown = grow(state, shardings) if grow else state
    return initial_weights.warm_start(begun, scale, grown, shardings)


def _fit_scales(scales, directory, allowed, run, dataset, begin):
    def run_scale(scale_config, system, of_scale, warm_start, title):
        if begin:
            warm_start = functools.partial(begin, scale_config.pyramid.scale, warm_start)

        def claim():
            safe_files.make_folder(of_scale, directory)
            workdir_files.claim(of_scale, scale_config, allowed)

        on_first_process(claim)
        return run(scale_config, system, of_scale, warm_start, title)

    examples = functools.partial(dataset.eval_batches, "train")
    return pyramid.fit_scales(scales, directory, run_scale, examples)


def plan(config, scales, mesh, examples, begun=None):
    """Describes the training at all scales, before anything expensive starts. -> text

    Args:
        scales: [(config, System)], coarsest first, or the only one.
        examples: number of training examples.
        begun: from `initial_weights.recorded`.
    """
    _, finest = scales[-1]
    abstract = workdir.abstract_state(finest, config)
    epochs = sum(one.epochs for one, _ in scales)

    def size(network):
        return sum(x.size for x in jax.tree.leaves(network.params))

    weights = ""
    if begun:
        steps = ", ".join(str(scale["step"]) for scale in begun["scales"])
        weights = f"weights      of {begun['run']}, step {steps}\n"
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    shape = " x ".join(f"{name} {n}" for name, n in mesh.shape.items())
    return (
        f"system       {config.system}, {config.dtype}\n"
        f"parameters   generator {size(abstract.generator):,}, "
        f"discriminator {size(abstract.discriminator):,}\n"
        f"{weights}"
        f"devices      {mesh.devices.size} {jax.devices()[0].device_kind} "
        f"in {jax.process_count()} process(es), mesh {shape}\n"
        f"data         {examples} training examples, global batch {config.data.batch_size}{parts}\n"
        f"steps        {epochs} epochs of {config.steps_per_epoch} steps, "
        f"{epochs * config.steps_per_epoch} in all"
    )
