"""What the small files of checkpoints say: which there are, the best, what is damaged."""

import contextlib
import math
import os
import re
import time
import warnings
from pathlib import Path

from jax_pix2pix.environment import environment
from jax_pix2pix.errors import DataError, WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.runs import file_digests, pieces
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import shown

MAX_SHOWN = 2000  # characters of a record of versions
STEP = re.compile("0|[1-9][0-9]*")  # the name of a step's folder
METRICS = "metrics/metrics"  # Orbax's file for the scores of a step, in the step's folder
VERSIONS = "environment/metadata"  # Orbax's file for the record of versions


class SavedSteps:
    """The steps that have a folder in ``directory``, which holds at least their small files.

    Args:
        directory: of checkpoints.
        best_metric: the name of the score that is to be high; a value that is not finite counts as
            the lowest.
        called: what messages call the directory.

    Raises:
        WorkdirError: the directory is a link.
    """

    def __init__(self, directory, best_metric, called=None):
        self.directory, self._best_metric = Path(directory), best_metric
        self._called = called or os.fspath(directory)
        if self.directory.is_symlink():
            raise WorkdirError(f"{directory} is a link: put the folder that it leads to there")

    def _score(self, metrics):
        """The metric, or -inf if training diverged: NaN has no order."""
        value = metrics[self._best_metric]
        return value if math.isfinite(value) else -math.inf

    def _found(self):
        """The steps that have a folder, including those that are about to be deleted."""
        names = [path.name for path in self.directory.glob("*")]
        return sorted(int(name) for name in names if STEP.fullmatch(name))

    def _move_damaged(self):
        """Moves damaged checkpoints to "damaged" beside all; one process of a run calls this.

        Raises:
            WorkdirError: all are damaged.
        """
        found = self._found()
        problems = {step: problem for step in found if (problem := self._damage(step))}
        sound = max(set(found) - set(problems), default=None)
        folder = os.path.join(os.path.dirname(self._called), "damaged")
        for step, problem in problems.items():
            name = f"{step}-{time.time_ns()}"
            self._move(step, name)
            used = "" if sound is None or step < sound else f", and step {sound} is used"
            messages.warning(
                f"the checkpoint of step {step} is damaged: {problem}; it is now "
                f"{os.path.join(folder, name)}{used}"
            )
        if found and sound is None:
            raise WorkdirError(
                f"{self._called}: all {len(found)} checkpoints are damaged and now in {folder}: "
                "restore one, or use another workdir"
            )

    def _damage(self, step):
        """What is wrong with a step, naming the file; or None."""
        return file_digests.damage(self.directory / str(step)) or self._saved_score(step)[1]

    def _move(self, step, name):
        """Moves a damaged step to damaged/name beside the directory."""
        raise NotImplementedError

    def check_sound(self, step):
        """Raises WorkdirError, naming the file, if a step is not as it was written."""
        if problem := self._damage(step):
            raise WorkdirError(
                f"the checkpoint of step {step} is damaged: {problem}: restore it, or use another"
            )

    def _saved_score(self, step):
        """-> (the score of a step, None if it has none; what is wrong with its file, or None)."""
        folder = self.directory / str(step)
        if problem := file_digests.damage(folder, METRICS):
            return None, problem
        if not (folder / METRICS).is_file():
            return None, None
        try:
            return float(self._score(safe_files.read_json(folder / METRICS, folder))), None
        except (OSError, ValueError, TypeError, LookupError, RecursionError, OverflowError):
            return None, f"{folder / METRICS} does not hold a score"

    def _best(self, steps):
        """The step with the highest score, the newest of equal ones; None if no step has one.

        Steps whose score is damaged are named on stderr and left out.
        """
        scores = {}
        for step in steps:
            score, problem = self._saved_score(step)
            if score is not None:
                scores[step] = score
            if problem:
                messages.warning(
                    f"the checkpoint of step {step} is damaged: {problem}; the best is that of "
                    "the others"
                )
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def resolve(self, which):
        """The step that "best", "last" or a number names.

        Raises:
            WorkdirError: there is no such checkpoint.
        """
        steps = self._found()
        if not steps:
            raise WorkdirError(f"{self.directory}: no checkpoint; train first")
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self._best(steps)
            if best is None:
                raise WorkdirError(
                    f"{self.directory}: no checkpoint has a validation score yet; use last"
                )
            return best
        if not which.isdecimal() or int(which) not in steps:
            raise WorkdirError(
                f'{self.directory}: no checkpoint "{which}"; use best, last or one of '
                f"{', '.join(map(str, steps))}"
            )
        return int(which)

    def _compare_versions(self, step):
        """Warns if a step was written by other versions or on other devices than these.

        Raises:
            WorkdirError: its record of versions is damaged.
        """
        written_in = self._versions(self.directory / str(step) / VERSIONS)
        now = environment()
        changes = [
            f"{key} was {written_in.get(key)}, is {now.get(key)}"
            for key in now | written_in
            if written_in.get(key) != now.get(key)
        ]
        if changes:
            warnings.warn(
                "this checkpoint was written elsewhere, so results agree to rounding and not "
                f"bit for bit: {shown('; '.join(changes)[:MAX_SHOWN])}",
                stacklevel=3,
            )
        logger.info("restored the checkpoint of step %d", step)

    def _versions(self, path):
        """The record of versions of a step."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            versions = safe_files.read_json(path, self.directory)
            if isinstance(versions, dict):
                return versions
        raise WorkdirError(f"{path} does not hold versions: restore it, or use another step")


@contextlib.contextmanager
def of_this_config(folder):
    """Raises what readers of a state raise, many kinds, as one error that names a step's folder."""
    try:
        yield
    except DataError:  # of a store, which says nothing of the state
        raise
    except pieces.DamagedError as error:
        raise WorkdirError(f"{folder}/{error}: restore it, or use another checkpoint") from error
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__:  # TensorStore's, without Orbax's pages about it
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:300]
        raise WorkdirError(
            f"{folder} does not hold the state of this config ({reason}): use the code and the "
            "config that wrote it"
        ) from error
