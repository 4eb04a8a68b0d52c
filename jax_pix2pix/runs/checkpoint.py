"""Checkpoints: Orbax's manager behind a few verbs, saving asynchronously.

Each has the digests of its files, written before it gets its name. So a checkpoint is whole, does
not exist, or is found to be damaged.
"""

import contextlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from jax_pix2pix.environment import environment
from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.runs import file_digests, pieces, stored_state
from jax_pix2pix.runs.processes import unshared_folders
from jax_pix2pix.runs.processes.first_process import on_first_process, refusing_together
from jax_pix2pix.runs.saved_steps import SavedSteps, of_this_config
from jax_pix2pix.safety import safe_files


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step):
        """Does not ask JAX: `preemption.asked_to_stop` does, with other numbers."""
        return False


class Checkpoints(SavedSteps):
    """The checkpoints of one run, in step-numbered folders of ``directory``.

    Keeps the last ``keep_last`` and the one with the highest ``best_metric`` among those saved
    with metrics; a value that is not finite counts as the lowest. Unless ``read_only``, damaged
    ones are first named on stderr and moved to "damaged" beside the checkpoints, so that all
    processes find the same ones.

    Raises:
        WorkdirError: all are damaged, the folder is a link, or not all processes see it.
    """

    def __init__(self, directory, best_metric, keep_last=1, read_only=False):
        super().__init__(directory, best_metric)
        self._read_only = read_only
        multiprocessing = ocp.options.MultiprocessingOptions()
        self._alone = read_only and jax.process_count() > 1  # a process may read on its own
        if self._alone:
            me = jax.process_index()
            multiprocessing = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
            )
        if not read_only:
            on_first_process(self._move_damaged)
            with refusing_together(for_all=True):
                if unshared_folders.are_apart(directory):
                    raise WorkdirError(
                        f"{directory}: not all processes see that folder, so that no restart could "
                        "read its checkpoints: use a folder that all hosts share, or a store "
                        "(s3://, gs://)"
                    )
        # BestN decides what is kept; without best_fn the manager forgets metrics when restarted.
        best = BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_last), best]),
            best_fn=self._score,
            read_only=read_only,
            create=not read_only,
            multiprocessing_options=multiprocessing,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=read_only,  # does not read metrics, which may be damaged
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._digest),
        )
        self._manager = _Manager(directory, options=options)

    def _move(self, step, name):
        folder = self.directory.parent / "damaged"
        safe_files.make_folder(folder, self.directory.parent)
        (self.directory / str(step)).rename(folder / name)

    def save(self, step, state, metrics=None):
        """Starts to write ``state`` (a pytree of arrays), unless ``step`` is already there.

        Raises:
            WorkdirError: this checkpoint, or the one before, could not be written.
        """
        if step in self._manager.all_steps():
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

    def restore(self, step, abstract_state):
        """The state of ``step``, with the shapes, types and placement of ``abstract_state``.

        The checkpoint does not decide what is allocated, or where.

        Raises:
            WorkdirError: its shapes or types differ, or it is damaged, which `check_sound` reports
                better.
        """
        folder = self.directory / str(step)
        if pieces.are_in(folder / "state"):
            with of_this_config(folder / "state"):
                state = pieces.restore_from_folder(folder / "state", abstract_state)
        else:
            state = self._restore(step, folder / "state", abstract_state)
        self._compare_versions(step)
        return state

    def _restore(self, step, folder, abstract_state):
        def check():
            with of_this_config(folder.parent):
                stored_state.check(folder, abstract_state)

        # One process looks for all that share the folder; a reader may be alone.
        check() if self._read_only else on_first_process(check)
        placed = unshared_folders.as_numpy(abstract_state) if self._alone else abstract_state
        contents = ocp.args.Composite(state=ocp.args.StandardRestore(placed))
        with of_this_config(folder.parent):
            state = self._manager.restore(step, args=contents)["state"]
        return unshared_folders.place_on_devices(state, abstract_state) if self._alone else state

    def wait(self):
        """Returns when all that was saved is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self):
        with self._writing():
            self._manager.close()
