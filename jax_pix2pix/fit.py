"""The training loop: step, log, validate, draw, checkpoint, stop cleanly."""

import contextlib
import os
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jax_pix2pix import device_cache
from jax_pix2pix.adversarial import create_state, train_step
from jax_pix2pix.checkpoint import Checkpoints
from jax_pix2pix.errors import TrainingError
from jax_pix2pix.evaluate import output_function, slice_scorer, slices_of
from jax_pix2pix.logbook import Logbook
from jax_pix2pix.loss_curve import draw_loss_curve
from jax_pix2pix.memory import release_freed
from jax_pix2pix.pictures import grid
from jax_pix2pix.sharding import (
    batch_sharding,
    replicated,
    stacked_batch_sharding,
    state_shardings,
    to_global,
    with_shardings,
)
from jax_pix2pix.workdir import abstract_state, checkpoint_path, example_batch


def fit(
    system,
    config,
    mesh,
    workdir,
    train_batches,
    validation_batches,
    validation_groups,
    sample_batches,
    dataset=None,
):
    """Trains from the newest checkpoint in ``workdir``, or from the beginning, to the last epoch.

    Args:
        system: System.
        config: the run's config, with steps_per_epoch filled in.
        mesh: from sharding.make_mesh.
        workdir: gets metrics, pictures and checkpoints.
        train_batches: first step -> iterator of this process's batches
            {"source": integers [b, *spatial, c], "target": likewise}, one a step.
        validation_batches: () -> iterator of such batches with "index", which is -1 on padding;
            the same number on every process.
        validation_groups: the patient or volume of each validation slice, by index.
        sample_batches: likewise, the few validation examples that pictures show.
        dataset: from device_cache.put, if train_batches give numbers to gather from it.

    Returns:
        True when the last epoch is done; False when the machine asked for the run to stop, which
        is then saved.
    """
    total_steps = config.epochs * config.steps_per_epoch
    checkpoints = Checkpoints(checkpoint_path(workdir), system.task.best_metric, config.keep_last)
    start_step = checkpoints.latest() or 0
    if start_step == total_steps:
        checkpoints.close()
        if jax.process_index() == 0:
            print(f"already finished: the checkpoint of step {start_step} is the last")
        return True

    abstract = abstract_state(system, config)
    shardings = state_shardings(mesh, abstract)
    if start_step:
        state = checkpoints.restore(start_step, with_shardings(abstract, shardings))
    else:
        state = initial_state(system, config, shardings)

    batches = train_batches(start_step)
    step_function = compile_step(system, config, mesh, abstract, dataset)
    validate = Validation(system, mesh, validation_batches, validation_groups, sample_batches)
    log = None
    if jax.process_index() == 0:
        log = Logbook(workdir, start_step, total_steps, config.steps_per_epoch)
    averages = Averages(log, config)

    finished = True
    try:
        for step in range(start_step + 1, total_steps + 1):
            with averages.waiting_for_input():
                batch = to_global(next(batches), mesh)
            state, metrics = step_function(state, batch)
            averages.add(step, metrics)

            if step % config.steps_per_epoch == 0:
                epoch = step // config.steps_per_epoch
                last = step == total_steps

                def due(every, epoch=epoch, last=last):
                    return last or epoch % every == 0

                averages.end_epoch(epoch, write=due(config.text_log_every_epochs))
                with averages.clock_stopped():
                    if due(config.checkpoint_every_epochs):
                        scores = validate(state.generator)
                        checkpoints.save(step, state, scores)
                        if log:
                            log.scalars(step, "validation", scores)
                            draw_loss_curve(workdir, system.task.best_metric)
                    if due(config.sample_every_epochs):
                        picture = validate.picture(state.generator)
                        if log:
                            _draw(workdir, log, step, epoch, picture)

            if _asked_to_stop(step):
                checkpoints.save(step, state)
                finished = step == total_steps
                break
        averages.flush()
    finally:
        if log:
            log.close()  # ends the bar's line before an error prints its own
    checkpoints.close()
    return finished


def initial_state(system, config, shardings):
    """The state that training begins with, placed as ``shardings`` says."""
    return jax.jit(
        lambda: create_state(system, jax.random.key(config.seed), example_batch(config)),
        out_shardings=shardings,
    )()


def compile_step(system, config, mesh, abstract, dataset=None):
    """train_step compiled for the mesh; returns when every process has it.

    Waiting matters: the first collective gives up on a process that compiles for 30 s longer.

    Args:
        dataset: from device_cache.put: then batches are numbers to gather from it.

    Returns:
        (state, batch) -> (state, metrics), in place.
    """
    lowered, names = lower_step(system, config, mesh, abstract, dataset)
    compiled = lowered.compile()
    release_freed()
    ocp.multihost.get_barrier_sync_fn()(key="train_step_compiled", timeout_ms=3_600_000)
    return lambda state, batch: compiled(state, dataset, {name: batch[name] for name in names})


def lower_step(system, config, mesh, abstract, dataset=None, steps_per_call=1):
    """train_step lowered for the mesh, with the names of what it reads of a batch.

    The lowered function is (state, dataset, batch) -> (state, metrics). With more steps_per_call,
    batches and metrics have a leading axis of that length.
    """
    shardings = state_shardings(mesh, abstract)
    example = example_batch(config)
    size = example["source"].shape[-3:-1]
    if dataset:
        example = device_cache.example_numbers(config.data.depth)
    shape, sharding = (config.data.batch_size,), batch_sharding(mesh)
    if steps_per_call > 1:
        shape, sharding = (steps_per_call, *shape), stacked_batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype, sharding=sharding)
        for name, x in example.items()
    }

    def step(state, dataset, batch):
        if dataset:
            batch = device_cache.gather(dataset, batch, size)
        return train_step(system, state, batch, jax.random.key(config.seed))

    def steps(state, dataset, batches):
        return jax.lax.scan(lambda state, batch: step(state, dataset, batch), state, batches)

    jitted = jax.jit(
        step if steps_per_call == 1 else steps,
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    return jitted.lower(with_shardings(abstract, shardings), dataset, batch), tuple(example)


class Averages:
    """Means of the metrics over logging intervals and epochs.

    Holds each step's metrics until the next step is dispatched, so that reading them never makes
    the device wait for the host.
    """

    def __init__(self, log, config):
        self._log, self._config = log, config
        self._total_steps = config.epochs * config.steps_per_epoch
        self._pending = None
        self._interval, self._epoch = [], []
        self._interval_start = time.perf_counter()
        self._waited = 0.0  # seconds of the interval

    @contextlib.contextmanager
    def waiting_for_input(self):
        """Counts the time, if the device has nothing left to do at its end.

        All of it, an upper bound: when the device finished its last step is not known.
        """
        start = time.perf_counter()
        yield
        if self._pending is None or all(x.is_ready() for x in self._pending[1].values()):
            self._waited += time.perf_counter() - start

    def add(self, step, metrics):
        self.flush()
        self._pending = (step, metrics)

    def flush(self):
        """Reads what is pending."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        for key, value in values.items():
            if not np.isfinite(value):
                raise TrainingError(
                    f"{key} is {value} at step {step}: lower config.optimizer.learning_rate, or "
                    "go on from an earlier checkpoint in another workdir"
                )
        self._interval.append(values)
        self._epoch.append(values)
        if self._log is None:
            return
        seconds = time.perf_counter() - self._interval_start
        images_per_second = len(self._interval) * self._config.data.batch_size / seconds
        shown = {key: f"{values[key]:.3f}" for key in ("loss_G", "loss_D", "ssim") if key in values}
        self._log.advance(**shown, images_s=f"{images_per_second:.1f}")
        if step % self._config.log_every_steps == 0 or step == self._total_steps:
            speed = {"images_per_second": images_per_second, "input_wait": self._waited / seconds}
            self._log.scalars(step, "train", _mean(self._interval) | speed)
            self._interval, self._interval_start, self._waited = [], time.perf_counter(), 0.0

    @contextlib.contextmanager
    def clock_stopped(self):
        """Leaves validation, pictures and checkpoints out of images per second."""
        start = time.perf_counter()
        yield
        self._interval_start += time.perf_counter() - start

    def end_epoch(self, epoch, write):
        self.flush()
        if write and self._log:
            self._log.epoch(epoch, _mean(self._epoch))
        self._epoch = []


def _mean(dicts):
    return {key: float(np.mean([d[key] for d in dicts])) for key in dicts[0]}


class Validation:
    """Scores and shows a generator on the validation split; dropout off."""

    def __init__(self, system, mesh, batches, groups, sample_batches):
        self._task, self._mesh, self._groups = system.task, mesh, groups
        self._batches, self._sample_batches = batches, sample_batches
        self._score = slice_scorer(system, mesh)
        self._outputs = output_function(system, mesh)

    def __call__(self, generator):
        """The task's summary of the split, every slice once: {name: float}."""
        return self._task.summarise(self._score(generator, self._batches()), self._groups)

    def picture(self, generator):
        """The samples, a row each."""
        rows = []
        for batch in self._sample_batches():
            rows += slices_of(self._outputs(generator, to_global(batch, self._mesh)))
        return grid(
            [self._task.row(*row) for row in rows], self._task.columns, side=self._task.side
        )


def _asked_to_stop(step):
    """Whether any process got SIGTERM; all processes agree on the step."""
    return jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step)


def _draw(workdir, log, step, epoch, picture):
    folder = os.path.join(workdir, "samples")
    os.makedirs(folder, exist_ok=True)
    picture.save(os.path.join(folder, f"epoch_{epoch:04d}.png"))
    log.image(step, "samples", np.asarray(picture))
