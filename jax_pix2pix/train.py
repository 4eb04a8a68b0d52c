"""Trains a run from a config and a data set, or resumes from the checkpoints in its workdir."""

import functools
import os

import jax
import numpy as np

from jax_pix2pix import config_fields, device_cache, pyramid, sharding
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.fit import Batches, fit
from jax_pix2pix.logs import goodput, process_log
from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.logs.logbook import Logbook
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
from jax_pix2pix.tasks.kinds import has_scales

SAMPLES = 8  # validation examples in a picture, evenly spaced


def train(
    config,
    directory,
    dataset,
    allowed=(),
    clock=None,
    trackers=(),
    coordinator=None,
    submission=None,
    profile_steps=None,
    init_from=None,
    init_checkpoint="last",
):
    """Trains to the last epoch; a pyramid trains scale after scale.

    Args:
        config: ConfigDict; fields that follow from the data are filled in.
        directory: the workdir; no other run may use it meanwhile.
        dataset: input_pipeline.Dataset of config.data.
        allowed: config fields that may differ from the workdir's; they must not change what is
            trained.
        clock: the process's Clock; by default it starts here.
        trackers: as for `Logbook`.
        coordinator: address of process 0, for the log.
        submission: what starts the run again if it is stopped or killed, as for `restarts.counted`.
        profile_steps: (first, last) of the steps, of each scale, of which a profile is written.
        init_from: a workdir, or its url, with whose weights the run begins instead of fresh ones;
            see `initial_weights`. A run that is resumed gives the same again.
        init_checkpoint: of that run: "best", "last" or a step as text.

    Returns:
        Whether it finished; False if the machine asked the run to stop, which is then saved.

    Raises:
        ConfigError, DataError, WorkdirError: something does not fit, before any training.
        WorkdirError: also if the workdir cannot be written.
        OSError: also if it holds links, pipes or devices.
        TrainingError: training went wrong.
    """
    clock = clock or Clock()
    with refusing_together():
        config_fields.check(config.to_dict())
        workdir_files.check_changeable(config, allowed)
        given = {"--allow_config_change": sorted(allowed), "--submission": submission}
        given |= {"--init_from": init_from, "--init_checkpoint": init_checkpoint}
        same_everywhere.check_run(config, given | {"--profile_steps": profile_steps})
    try:
        with workdir_lock.locked(directory):
            on_first_process(lambda: workdir_files.check_files(directory))
            with restarts.counted(directory, submission):
                scales, batches, mesh = _prepared(config, dataset, profile_steps)
                begun = on_first_process(
                    lambda: initial_weights.recorded(directory, init_from, init_checkpoint, scales)
                )
                on_first_process(lambda: _claim(config, directory, dataset, allowed, begun))
                process_log.start(directory, coordinator)
                if jax.process_index() == 0:
                    messages.info(plan(config, scales, mesh, dataset.num_training_examples, begun))
                run = functools.partial(_fit, mesh, batches, clock, trackers, profile_steps)
                begin = functools.partial(_begin, begun) if init_from else None
                if has_scales(config):
                    finished = _fit_scales(scales, directory, allowed, run, dataset, begin)
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
    same_everywhere.check_data(dataset, config)
    mesh = sharding.make_mesh(config.fsdp, config.data.batch_size, accumulate=config.accumulate)
    configs = pyramid.scales(config) if has_scales(config) else [config]
    scales = [(one, workdir.build_system(one)) for one in configs]
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


def _fit(
    mesh,
    batches,
    clock,
    trackers,
    profile_steps,
    config,
    system,
    directory,
    warm_start=None,
    title=None,
):
    """Fits one system, or one scale. -> whether it finished."""
    fields = dict(workdir_files.flat(config.to_dict()))
    finished = fit(
        system,
        config,
        mesh,
        directory,
        batches(config),
        warm_start,
        functools.partial(Logbook, title=title, config=fields, trackers=trackers),
        clock,
        profile_steps,
    )
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
