"""What a run writes while it trains, on process 0: progress bar, text, JSON lines, writers."""

import contextlib
import json
import os
import time

import tqdm

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs import straggler
from jax_pix2pix.logs.goodput import kept, of_workdir, restart_cost
from jax_pix2pix.logs.metrics_log import (
    complete_lines,
    metrics_line,
    metrics_path,
    parsed,
    points,
    read_metrics,
)
from jax_pix2pix.logs.writers import TensorBoard
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import shown


class Logbook:
    """Files of one workdir; continues them after ``start_step``.

    A killed run may have logged steps after its last checkpoint. They are trained again, so their
    lines are dropped first: each step stands in metrics.jsonl once. The time of these lines goes
    into the line of split "start".

    Args:
        clock: the process's, on which all time up to here is booked.
        title: of the progress bar.
        config: {dotted name of a field: value}, for the writers.
        trackers: of trackers.py, each (workdir, history) -> Writer, besides TensorBoard.

    Raises:
        WorkdirError: a line of a log is damaged; a last line that was cut short is ignored.
        OSError: a file or folder is a link, or something else, or cannot be written.
    """

    def __init__(
        self,
        workdir,
        start_step,
        total_steps,
        steps_per_epoch,
        clock,
        title=None,
        config=None,
        trackers=(),
    ):
        self._workdir, self._steps_per_epoch, self._clock = workdir, steps_per_epoch, clock
        spent = clock.take()
        start = {"seconds": spent}
        self.interval = []  # the metrics of the steps of an unfinished interval
        if before := read_metrics(workdir):
            began = time.time() - sum(spent.values())
            start["restart"] = restart_cost(before, start_step, began)
            for line in before:
                if (line["step"], line["split"]) == (start_step, "unfinished"):
                    self.interval = line["metrics"]
        self._jsonl = _continued(
            workdir, metrics_path(workdir), metrics_line, lambda line: kept(line, start_step)
        )
        self._line(start_step, "start", start)
        self._text = _continued(
            workdir,
            os.path.join(workdir, "training_log.txt"),
            lambda line: int(line.split()[1]),
            lambda epoch: epoch * steps_per_epoch <= start_step,
        )
        history = {"kept": [line for line in before if kept(line, start_step)], "last": {}}
        for line in before:
            if points(line):
                last = history["last"].get(line["split"], -1)
                history["last"][line["split"]] = max(last, line["step"])
        board = os.path.join(workdir, "tensorboard")
        safe_files.make_folder(board, workdir)
        self._writers = [TensorBoard(board, start_step)]
        self._writers += [tracker(workdir, history) for tracker in trackers]
        if config:
            for writer in self._writers:
                writer.config(config)
        self._bar = tqdm.tqdm(
            desc=title and shown(title),
            total=total_steps,
            initial=start_step,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
        )

    def advance(self, **shown):
        """Advances the bar by one step; ``shown`` stands behind it."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def scalars(self, step, split, values, **fields):
        """Writes a line of metrics.jsonl, and the values, without the fields, to each writer."""
        values = {key: float(value) for key, value in values.items()}
        self._line(step, split, values | fields)
        for writer in self._writers:
            writer.scalars(step, split, values)

    def straggler(self, step, compared):
        """Writes what straggler.gather found to metrics.jsonl, and prints it if it is notable."""
        self.scalars(step, "straggler", compared)
        if text := straggler.line(round(step / self._steps_per_epoch), compared):
            tqdm.tqdm.write(text)  # above the bar

    def seconds(self, step):
        """Writes a line of metrics.jsonl: the time booked on the clock since the last one."""
        self._line(step, "seconds", {"seconds": self._clock.take()})

    def unfinished(self, step, metrics):
        """Writes a line of metrics.jsonl: {name: value} of each step of the interval so far."""
        self._line(step, "unfinished", {"metrics": metrics})

    def _line(self, step, split, values):
        line = {"step": step, "epoch": step / self._steps_per_epoch, "split": split, **values}
        self._jsonl.write(json.dumps(line | {"time": time.time()}) + "\n")
        self._jsonl.flush()

    def epoch(self, epoch, values):
        """Writes a line of training_log.txt."""
        values = "  ".join(f"{shown(key)} {value:.4f}" for key, value in values.items())
        self._text.write(f"epoch {epoch}  {values}\n")
        self._text.flush()

    def image(self, step, name, image):
        """image: uint8 [h, w, 3]."""
        for writer in self._writers:
            writer.image(step, name, image)

    def close(self):
        """Closes files and writers; at the end of the run, writers first get its goodput."""
        finished = self._bar.n == self._bar.total
        self._bar.close()
        self._jsonl.close()
        self._text.close()
        summary = None
        if finished:
            # Someone removed the file meanwhile, or put something else there.
            with contextlib.suppress(WorkdirError, safe_files.UnsafeFileError):
                summary = of_workdir(self._workdir)
        for writer in self._writers:
            if summary:
                writer.scalars(self._bar.total, "goodput", summary["shares"])
            writer.close(finished)


def _continued(workdir, path, parse, keep):
    """Opens a log for appending, after dropping lines for which ``keep(parse(line))`` is false.

    Raises:
        WorkdirError: parse refuses a line.
    """
    lines = complete_lines(path, workdir)
    values = parsed(path, lines, parse)
    text = "".join(line for line, value in zip(lines, values, strict=True) if keep(value))
    safe_files.write(path, text, workdir)  # a run that is killed here loses nothing
    return safe_files.open_to_append(path, workdir)
