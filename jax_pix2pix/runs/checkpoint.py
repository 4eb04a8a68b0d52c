"""Checkpoints: Orbax's manager behind a few verbs, saving asynchronously.

Each has the digests of its files, written before it gets its name. So a checkpoint is whole, does
not exist, or is found to be damaged.
"""

import contextlib
import math
import time
import warnings
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from jax_pix2pix.environment import environment
from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.runs import file_digests, stored_state
from jax_pix2pix.runs.processes import unshared_folders
from jax_pix2pix.runs.processes.first_process import on_first_process
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import shown

MAX_SHOWN = 2000  # characters of a record of versions
METRICS = "metrics/metrics"  # Orbax's file for the scores of a step, in the step's folder


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step):
        """Does not ask JAX: `preemption.asked_to_stop` does, with other numbers."""
        return False


class Checkpoints:
    """The checkpoints of one run, in step-numbered folders of ``directory``.

    Keeps the last ``keep_last`` and the one with the highest ``best_metric`` among those saved
    with metrics; a value that is not finite counts as the lowest. Unless ``read_only``, damaged
    ones are first named on stderr and moved to "damaged" beside the checkpoints, so that all
    processes find the same ones.

    Raises:
        WorkdirError: all are damaged, or the folder is a link.
    """

    def __init__(self, directory, best_metric, keep_last=1, read_only=False):
        self.directory, self._read_only = Path(directory), read_only
        if self.directory.is_symlink():
            raise WorkdirError(f"{directory} is a link: put the folder that it leads to there")

        def score(metrics):
            """The metric, or -inf if training diverged: NaN has no order."""
            value = metrics[best_metric]
            return value if math.isfinite(value) else -math.inf

        self._score = score
        multiprocessing = ocp.options.MultiprocessingOptions()
        if read_only:  # a process may read on its own
            self._apart = jax.process_count() > 1
        else:
            on_first_process(self._move_damaged)
            self._apart = unshared_folders.are_apart(directory)
        if self._apart:  # each process has a manager; only that of process 0 saves
            if not read_only:
                self.directory.mkdir(parents=True, exist_ok=True)
            me = jax.process_index()
            multiprocessing = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
            )
        # BestN decides what is kept; without best_fn the manager forgets metrics when restarted.
        best = BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_last), best]),
            best_fn=score,
            read_only=read_only,
            create=not read_only and not self._apart,
            multiprocessing_options=multiprocessing,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=read_only,  # does not read metrics, which may be damaged
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._digest),
        )
        self._manager = _Manager(directory, options=options)

    def _move_damaged(self):
        """Moves damaged checkpoints, as the class says; one process of a run calls this."""
        found = self._found()
        problems = {step: problem for step in found if (problem := self._damage(step))}
        sound = max(set(found) - set(problems), default=None)
        folder = self.directory.parent / "damaged"
        for step, problem in problems.items():
            safe_files.make_folder(folder, self.directory.parent)
            moved = folder / f"{step}-{time.time_ns()}"
            (self.directory / str(step)).rename(moved)
            used = "" if sound is None or step < sound else f", and step {sound} is used"
            messages.warning(
                f"the checkpoint of step {step} is damaged: {problem}; it is now {moved}{used}"
            )
        if found and sound is None:
            raise WorkdirError(
                f"{self.directory}: all {len(found)} checkpoints are damaged and now in {folder}: "
                "restore one, or use another workdir"
            )

    def _found(self):
        """The steps that have a folder, including those that the manager is about to delete."""
        names = [path.name for path in self.directory.glob("*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def check_whole(self, state):
        """Raises WorkdirError if `save` could not collect all of a state placed like this one."""
        if self._apart:
            try:
                unshared_folders.gather_to_host(state)
            except WorkdirError:
                jax.distributed.shutdown()  # or the first to end would abort the others
                raise

    def save(self, step, state, metrics=None):
        """Starts to write ``state`` (a pytree of arrays), unless ``step`` is already there.

        Raises:
            WorkdirError: this checkpoint, or the one before, could not be written.
        """
        if step in self._manager.all_steps():
            return
        if self._apart:
            state = unshared_folders.gather_to_host(state)
            if jax.process_index():
                return
        contents = ocp.args.Composite(
            state=ocp.args.StandardSave(state), environment=ocp.args.JsonSave(environment())
        )
        with self._writing():
            self._manager.save(step, args=contents, metrics=metrics)
        logger.info("checkpoint of step %d: being written", step)

    def _digest(self):
        """Called when all of a checkpoint is written, before it gets its name."""
        if jax.process_index() == 0:
            for folder in self.directory.glob("*.orbax-checkpoint-tmp*"):
                file_digests.write(folder)

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # of the file system, through Orbax's threads and TensorStore
            reason = " ".join(str(error).split())[:300]
            steps = self._found()
            kept = f"step {max(steps)} is whole" if steps else "there is no checkpoint yet"
            raise WorkdirError(
                f"{self.directory}: a checkpoint could not be written ({reason}); {kept}: make "
                "room and start again"
            ) from error

    def latest(self):
        """The newest step, or None."""
        # That of process 0: a shared folder may be listed late on other hosts.
        return unshared_folders.of_first_process(self._manager.latest_step())

    def check_sound(self, step):
        """Raises WorkdirError, naming the file, if a step is not as it was written."""
        if problem := self._damage(step):
            raise WorkdirError(
                f"the checkpoint of step {step} is damaged: {problem}: restore it, or use another"
            )

    def _damage(self, step):
        """What is wrong with a step, naming the file; or None."""
        return file_digests.damage(self.directory / str(step)) or self._saved_score(step)[1]

    def _saved_score(self, step):
        """-> (the score of a step, None if it has none; what is wrong with its file, or None)."""
        folder = self.directory / str(step)
        if problem := file_digests.damage(folder, METRICS):
            return None, problem
        if not (folder / METRICS).is_file():
            return None, None
        try:
            return float(self._score(safe_files.read_json(folder / METRICS, folder))), None
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
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
        steps = sorted(self._manager.all_steps())
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

    def restore(self, step, abstract_state):
        """The state of ``step``, with the shapes, types and placement of ``abstract_state``.

        The checkpoint does not decide what is allocated, or where.

        Raises:
            WorkdirError: its shapes or types differ, or it is damaged, which `check_sound` reports
                better.
        """
        placed = unshared_folders.as_numpy(abstract_state) if self._apart else abstract_state
        contents = ocp.args.Composite(state=ocp.args.StandardRestore(placed))
        folder = self.directory / str(step)

        def check():
            with self._named(folder):
                stored_state.check(folder / "state", abstract_state)

        # One process looks for all that share the folder; a reader may be alone.
        check() if self._apart or self._read_only else on_first_process(check)
        with self._named(folder):
            restored = self._manager.restore(step, args=contents)
        written_in = self._versions(folder / "environment" / "metadata")
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
                stacklevel=2,
            )
        logger.info("restored the checkpoint of step %d", step)
        state = restored["state"]
        return unshared_folders.place_on_devices(state, abstract_state) if self._apart else state

    @contextlib.contextmanager
    def _named(self, folder):
        """Raises what Orbax and TensorStore raise, many kinds, as one error that names a step."""
        try:
            yield
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__:  # TensorStore's, without Orbax's pages about it
                cause = cause.__cause__
            reason = " ".join(str(cause).split())[:300]
            raise WorkdirError(
                f"{folder} does not hold the state of this config ({reason}): use the code and the "
                "config that wrote it"
            ) from error

    def _versions(self, path):
        """The record of versions of a step."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            versions = safe_files.read_json(path, self.directory)
            if isinstance(versions, dict):
                return versions
        raise WorkdirError(f"{path} does not hold versions: restore it, or use another step")

    def wait(self):
        """Returns when all that was saved is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self):
        with self._writing():
            self._manager.close()
