"""What a run writes while it trains, on process 0: progress bar, text, JSON lines, TensorBoard."""

import json
import os
import time

import numpy as np
import tensorboardX
import tqdm


class Logbook:
    """Files of one workdir; continues them after ``start_step``.

    A killed run may have logged steps after its last checkpoint. They are trained again, so their
    lines are dropped first: each step stands in metrics.jsonl once.
    """

    def __init__(self, workdir, start_step, total_steps, steps_per_epoch):
        self._steps_per_epoch = steps_per_epoch
        self._jsonl = _truncated(
            os.path.join(workdir, "metrics.jsonl"), lambda x: json.loads(x)["step"] <= start_step
        )
        self._text = _truncated(
            os.path.join(workdir, "training_log.txt"),
            lambda x: int(x.split()[1]) * steps_per_epoch <= start_step,
        )
        self._board = tensorboardX.SummaryWriter(
            os.path.join(workdir, "tensorboard"), purge_step=start_step + 1
        )
        self._bar = tqdm.tqdm(
            total=total_steps, initial=start_step, unit="step", smoothing=0.05, dynamic_ncols=True
        )

    def advance(self, **shown):
        """One step further on the bar; ``shown`` stands behind it."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def scalars(self, step, split, values):
        """One line of metrics.jsonl and one TensorBoard point each."""
        values = {key: float(value) for key, value in values.items()}
        line = {"step": step, "epoch": step / self._steps_per_epoch, "split": split, **values}
        self._jsonl.write(json.dumps(line | {"time": time.time()}) + "\n")
        self._jsonl.flush()
        for key, value in values.items():
            self._board.add_scalar(f"{split}/{key}", value, step)

    def epoch(self, epoch, values):
        """One line of training_log.txt."""
        values = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
        self._text.write(f"epoch {epoch}  {values}\n")
        self._text.flush()

    def image(self, step, name, image):
        """image: uint8 [h, w, 3]."""
        self._board.add_image(name, np.asarray(image), step, dataformats="HWC")
        self._board.flush()

    def close(self):
        self._bar.close()
        self._jsonl.close()
        self._text.close()
        self._board.close()


def _truncated(path, keep):
    """Opens a log for appending, after removing the lines that ``keep`` refuses."""
    lines = []
    if os.path.exists(path):
        with open(path) as file:
            complete = [line for line in file if line.endswith("\n")]
        lines = [line for line in complete if keep(line)]
    file = open(path, "w")
    file.writelines(lines)
    file.flush()
    return file
