"""The training loop: step, log, validate, draw, checkpoint, stop cleanly."""

import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jax_pix2pix import device_cache
from jax_pix2pix.adversarial import create_state, train_step
from jax_pix2pix.errors import TrainingError, WorkdirError
from jax_pix2pix.evaluation.slices import output_function, slice_scorer, slices_of
from jax_pix2pix.imaging.pictures import grid
from jax_pix2pix.logs.averages import Averages
from jax_pix2pix.logs.logbook import Logbook
from jax_pix2pix.logs.loss_curve import draw_loss_curve
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.memory import release_freed
from jax_pix2pix.runs.processes.preemption import asked_to_stop
from jax_pix2pix.runs.processes.replicas import Replicas
from jax_pix2pix.runs.processes.watchdog import Watchdog
from jax_pix2pix.runs.profile import Profile
from jax_pix2pix.runs.stores.store_checkpoints import open_checkpoints
from jax_pix2pix.runs.workdir import abstract_state, example_batch
from jax_pix2pix.runs.workdir_files import checkpoint_path, flat
from jax_pix2pix.safety import safe_files
from jax_pix2pix.sharding import (
    batch_sharding,
    replicated,
    stacked_batch_sharding,
    state_shardings,
    to_global,
    with_shardings,
)
from jax_pix2pix.start import Start


class Batches(NamedTuple):
    """What a run reads: stored batches of this process.

    train: number of finished steps -> iterator of {"source", "target": integers [b, *spatial, c],
        "index": of the examples}, one a step.
    validation: () -> iterator of such batches, where "index" is -1 on padding; the same number on
        every process.
    groups: the patient or volume of each validation slice, by index.
    shown: () -> iterator of the few validation examples that pictures show.
    cached: from device_cache.put, if `train` gives numbers to gather from it.
    """

    train: Callable
    validation: Callable
    groups: list
    shown: Callable
    cached: dict | None = None


def fit(system, config, mesh, workdir, data, start=None, warm_start=None, title=None):
    """Trains from the newest checkpoint in ``workdir``, or from the beginning, to the last epoch.

    Args:
        system: System.
        config: the run's config, with steps_per_epoch filled in.
        mesh: from sharding.make_mesh.
        workdir: gets metrics, pictures and checkpoints.
        data: Batches.
        start: Start, of which the clock, the trackers and the steps to profile are used.
        warm_start: (TrainState, shardings) -> TrainState, for a run that begins.
        title: of the progress bar.

    Returns:
        True if the last epoch is done; False if the machine asked the run to stop, which is then
        saved.
    """
    start = start or Start()
    clock = start.clock
    total_steps = config.epochs * config.steps_per_epoch
    path = checkpoint_path(workdir)
    checkpoints = open_checkpoints(path, system.task.best_metric, config.keep_last)
    start_step = checkpoints.latest() or 0
    if start_step == total_steps:
        checkpoints.close()
        if jax.process_index() == 0:
            messages.info(f"already finished: the checkpoint of step {start_step} is the last")
        return True

    if start_step > total_steps:
        checkpoints.close()
        raise WorkdirError(
            f"{checkpoints.directory / str(start_step)} is beyond the last step, {total_steps}: "
            "use the config that wrote it, or another workdir"
        )

    abstract = abstract_state(system, config)
    shardings = state_shardings(mesh, abstract)
    if start_step:
        state = checkpoints.restore(start_step, with_shardings(abstract, shardings))
    else:
        state = initial_state(system, config, shardings)
        if warm_start:
            state = warm_start(state, shardings)
    replicas = Replicas(mesh, shardings)

    batches = data.train(start_step)
    clock.book("startup")
    step_function = compile_step(system, config, mesh, abstract, data.cached)
    clock.book("compile")
    watchdog = Watchdog(config.watchdog_seconds, workdir)
    validate = Validation(
        system,
        mesh,
        lambda: watchdog.each(data.validation()),
        data.groups,
        lambda: watchdog.each(data.shown()),
    )
    log = None
    if jax.process_index() == 0:
        fields = dict(flat(config.to_dict()))
        lengths = start_step, total_steps, config.steps_per_epoch
        log = Logbook(workdir, *lengths, clock, title, fields, start.trackers)
    averages = Averages(log, config, clock)

    def save(step, state, scores=None):
        averages.keep(step)
        replicas.check(state, step)
        checkpoints.save(step, state, scores)
        clock.book("checkpoint")

    def end_epoch(step, epoch, state, last):
        """Logs, draws, validates and saves what is due. -> whether it saved."""

        def due(every):
            return last or epoch % every == 0

        averages.end_epoch(epoch, write=due(config.text_log_every_epochs))
        # The checkpoint comes last: a run that is killed before it repeats all of this.
        if due(config.sample_every_epochs):
            picture = validate.picture(state.generator)
            if log:
                _draw(workdir, log, step, epoch, picture)
        if due(config.checkpoint_every_epochs):
            scores = validate(state.generator)
            if log:
                log.scalars(step, "validation", scores)
                draw_loss_curve(workdir, system.task.best_metric)
            clock.book("evaluation")
            save(step, state, scores)
        clock.book("evaluation")
        if log:
            log.seconds(step)
        return due(config.checkpoint_every_epochs)

    finished = True
    profile = Profile(start.profile_steps, workdir)
    watchdog.start()
    try:
        replicas.check(state, start_step)
        clock.book("compile")
        for step in range(start_step + 1, total_steps + 1):
            profile.before(step)
            with averages.waiting_for_input():
                batch = next(batches)
            batch = to_global(batch, mesh)
            state, metrics = step_function(state, batch)
            averages.add(step, metrics, batch["index"])
            profile.after(step, state)
            watchdog.alive()

            saved = False
            if step % config.steps_per_epoch == 0:
                epoch = step // config.steps_per_epoch
                saved = end_epoch(step, epoch, state, last=step == total_steps)

            every = config.checkpoint_every_steps
            stop = asked_to_stop()
            if not saved and (stop or (every and step % every == 0)):
                save(step, state)
            if stop:
                finished = step == total_steps
                break
        averages.flush()
        checkpoints.close()
        clock.book("checkpoint")
        if log:
            log.seconds(step)
    except Exception as error:
        alike = isinstance(error, TrainingError)  # raised on all processes
        if alike or jax.process_count() == 1:
            with contextlib.suppress(WorkdirError):
                checkpoints.close()  # finishes a save in progress
        if alike:
            jax.distributed.shutdown()  # or the first to end would abort the others
        raise
    finally:
        watchdog.stop()
        profile.close()
        if log:
            log.close()  # ends the bar's line before an error prints its own
    return finished


def initial_state(system, config, shardings):
    """The state that training begins with, placed as ``shardings`` says."""
    return jax.jit(
        lambda: create_state(system, jax.random.key(config.seed), example_batch(config)),
        out_shardings=shardings,
    )()


def compile_step(system, config, mesh, abstract, dataset=None):
    """Compiles train_step for the mesh; returns when every process has done so.

    Waiting matters: the first collective gives up on a process that compiles for 30 s longer.

    Args:
        dataset: from device_cache.put; if given, batches are numbers to gather from it.

    Returns:
        (state, batch) -> (state, metrics), which updates the state in place.
    """
    lowered, names = lower_step(system, config, mesh, abstract, dataset)
    compiled = lowered.compile()
    release_freed()
    ocp.multihost.get_barrier_sync_fn()(key="train_step_compiled", timeout_ms=3_600_000)
    return lambda state, batch: compiled(state, dataset, {name: batch[name] for name in names})


def lower_step(system, config, mesh, abstract, dataset=None, steps_per_call=1):
    """Lowers train_step for the mesh. -> (lowered, names of the arrays of a batch that it reads).

    The lowered function is (state, dataset, batch) -> (state, metrics). With more steps_per_call,
    batches and metrics have a leading axis of that length.
    """
    shardings = state_shardings(mesh, abstract)
    example = example_batch(config)
    size = example["source"].shape[-3:-1]
    if dataset:
        context = config.data.context
        example = device_cache.example_numbers(2 * context + 1 if context else config.data.depth)
    shape, sharding = (config.data.batch_size,), batch_sharding(mesh)
    if steps_per_call > 1:
        shape, sharding = (steps_per_call, *shape), stacked_batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype, sharding=sharding)
        for name, x in example.items()
    }

    def step(state, dataset, batch):
        if dataset:
            batch = device_cache.gather(dataset, batch, size) | {"index": batch["index"]}
            if config.data.context:
                batch = device_cache.as_channels(batch, config.data.context)
        return train_step(system, state, batch, jax.random.key(config.seed))

    def steps(state, dataset, batches):
        return jax.lax.scan(lambda state, batch: step(state, dataset, batch), state, batches)

    jitted = jax.jit(
        step if steps_per_call == 1 else steps,
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    return jitted.lower(with_shardings(abstract, shardings), dataset, batch), tuple(example)


class Validation:
    """Scores and shows a generator on the validation split; dropout off."""

    def __init__(self, system, mesh, batches, groups, sample_batches):
        self._task, self._mesh, self._groups = system.task, mesh, groups
        self._batches, self._sample_batches = batches, sample_batches
        self._score = slice_scorer(system, mesh)
        self._outputs = output_function(system, mesh)

    def __call__(self, generator):
        """The task's summary of the split: {name: float}; every readable slice counts once."""
        index, scores = self._score(generator, self._batches())
        return self._task.summarise(scores, [self._groups[i] for i in index])

    def picture(self, generator):
        """A picture with a row for each sample."""
        rows = []
        for batch in self._sample_batches():
            rows += slices_of(self._outputs(generator, to_global(batch, self._mesh)))
        return grid(
            [self._task.row(*row) for row in rows], self._task.columns, side=self._task.side
        )


def _draw(workdir, log, step, epoch, picture):
    path = os.path.join(workdir, "samples", f"epoch_{epoch:04d}.png")
    with safe_files.writing(path, workdir) as file:
        picture.save(file, "png")
    log.image(step, "samples", np.asarray(picture))
