"""Means of a run's metrics, counts of skipped updates and what goes into a line of the log."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.errors import TrainingError
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.logs.straggler import HostTime, gather


class Averages:
    """Means of the metrics over logging intervals and epochs, and counts of skipped updates.

    Holds each step's metrics until the next step is dispatched, so that reading them never makes
    the device wait for the host.
    """

    def __init__(self, log, config, clock):
        self._log, self._config, self._clock = log, config, clock
        self._total_steps = config.epochs * config.steps_per_epoch
        self._pending = None
        # If the run resumes in the middle of an interval, the steps before.
        self._interval = list(log.interval) if log else []
        self._restored, self._epoch = len(self._interval), []
        self._skipped_in_a_row = 0
        self._before = dict(clock.seconds)  # at the interval's start
        self._host, self._idle = HostTime(), False
        self._before_epoch = dict(clock.seconds)
        spent = ", ".join(f"{kind} {s:.1f} s" for kind, s in clock.seconds.items() if s)
        logger.info("ready to train; time so far: %s", spent)

    @contextlib.contextmanager
    def waiting_for_input(self):
        """Books the time as input if the device has nothing left to do at its end.

        This is an upper bound: it is not known when the device finished its last step.
        """
        self._clock.book("step")
        self._host.begin()
        yield
        self._idle = self._pending is None or all(x.is_ready() for x in self._pending[1].values())
        self._clock.book("input" if self._idle else "step")

    def add(self, step, metrics, index):
        """Adds a step that was dispatched; index: the numbers of the global batch's examples."""
        self._host.dispatched(self._idle)
        self.flush()
        if self._logs(step):  # on all processes, which compute it together
            metrics = metrics | {"batch_ids": batch_ids(index)}
        self._pending = (step, metrics)

    def flush(self):
        """Reads the pending metrics.

        Raises:
            TrainingError: on all processes, after max_skipped steps in a row with a skipped update.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = jax.device_get(metrics)
        ids = int(values.pop("batch_ids", 0))
        values = {key: float(value) for key, value in values.items()}
        self._clock.book("step")
        self._check_skipped(step, values)
        self._interval.append(values)
        self._epoch.append(values)
        if self._log is None:
            return
        waited, stepped = (
            self._clock.seconds[kind] - self._before[kind] for kind in ("input", "step")
        )
        seconds = waited + stepped  # without validation, pictures and checkpoints
        steps = len(self._interval) - self._restored  # taken in those seconds
        images_per_second = steps * self._config.data.batch_size / seconds
        shown = {key: f"{values[key]:.3f}" for key in ("loss_G", "loss_D", "ssim") if key in values}
        self._log.advance(**shown, images_s=f"{images_per_second:.1f}")
        if self._logs(step):
            speed = {"images_per_second": images_per_second, "input_wait": waited / seconds}
            # A checksum of the last step's batch, which shows if a resumed run had the same one.
            means = _mean(self._interval) | speed
            self._log.scalars(step, "train", means, batch_ids=ids)
            self._log.seconds(step)
            self._interval, self._restored, self._before = [], 0, dict(self._clock.seconds)

    def _logs(self, step):
        return step % self._config.log_every_steps == 0 or step == self._total_steps

    def keep(self, step):
        """Logs an unfinished interval at a checkpoint, for a run that resumes there."""
        self.flush()
        if self._log and self._interval:
            self._log.unfinished(step, self._interval)

    def _check_skipped(self, step, values):
        if not (values["skipped_D"] or values["skipped_G"]):
            self._skipped_in_a_row = 0
            return
        skipped = [f"{name} {values[name]:g}" for name in ("skipped_D", "skipped_G")]
        logger.warning("step %d: updates were skipped: %s", step, ", ".join(skipped))
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == self._config.max_skipped:
            losses = ", ".join(
                f"{key} is {value}" for key, value in values.items() if "loss" in key
            )
            raise TrainingError(
                f"updates were skipped in {self._skipped_in_a_row} steps in a row, up to step "
                f"{step} ({losses}), as gradients were not finite or losses spikes: lower "
                "config.optimizer.learning_rate in another workdir; the last checkpoint is of a "
                "sound state"
            )

    def end_epoch(self, epoch, write):
        """Called on all processes, which compare their speed here."""
        self.flush()
        seconds = sum(self._clock.seconds[x] - self._before_epoch[x] for x in ("input", "step"))
        compared = gather(*self._host.take(), seconds)
        if compared and self._log:
            self._log.straggler(epoch * self._config.steps_per_epoch, compared)
        if write and self._log:
            self._log.epoch(epoch, _mean(self._epoch))
        self._epoch, self._before_epoch = [], dict(self._clock.seconds)


@jax.jit
def batch_ids(index):
    """A checksum of examples' numbers and their order, the same however they lie on devices."""
    numbers = index.astype(jnp.uint32).ravel()
    # Sums of integers do not depend on their order, which differs between meshes.
    mixed = (numbers + jnp.uint32(0x9E3779B9)) * jnp.uint32(0x85EBCA6B)
    mixed ^= mixed >> 15
    places = jnp.arange(numbers.size, dtype=jnp.uint32) * jnp.uint32(0xC2B2AE35) | jnp.uint32(1)
    return (mixed * places).sum(dtype=jnp.uint32)


def _mean(dicts):
    """Averages the finite values, since a skipped update's may not be; sums `skipped_*`."""
    means = {}
    for key in dicts[0]:
        values = np.array([d[key] for d in dicts])
        if key.startswith("skipped_"):
            means[key] = float(values.sum())
        elif np.isfinite(values).any():
            means[key] = float(values[np.isfinite(values)].mean())
    return means
