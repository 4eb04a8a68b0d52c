"""Checkpoints in a store: every process writes its parts of the arrays there, and reads them.

No host needs a disk for them, nor all of the state. They are not Orbax's, which (0.12.8) knows no
s3://. All processes send their `pieces`, then process 0 the logs up to there and the small files,
and last the digests of all, without which no checkpoint counts. Before each object the process
looks whether the run still has its lock.
"""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
import zlib

import jax

from jax_pix2pix.environment import environment
from jax_pix2pix.errors import DataError, WorkdirError
from jax_pix2pix.logs.process_log import logger
from jax_pix2pix.runs import file_digests, pieces
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.processes.first_process import collected, on_first_process, refusing_together
from jax_pix2pix.runs.processes.unshared_folders import of_first_process
from jax_pix2pix.runs.saved_steps import METRICS, VERSIONS, SavedSteps, of_this_config
from jax_pix2pix.runs.stores import mirror, remote_workdir, store_lock
from jax_pix2pix.runs.stores.stored_files import STATE, StoredFiles
from jax_pix2pix.safety import safe_files

_NUMBERS = itertools.count()  # of saves; all processes save equally often


def open_checkpoints(directory, best_metric, keep_last=1, read_only=False):
    """The checkpoints of a workdir: `StoreCheckpoints` in a copy of a store's, else `Checkpoints`.

    Args and errors are those of `Checkpoints`.
    """
    copy, below = remote_workdir.mirror_of(directory)
    if copy:
        return StoreCheckpoints(copy, below, best_metric, keep_last, read_only)
    return Checkpoints(directory, best_metric, keep_last, read_only)


class StoreCheckpoints(SavedSteps):
    """What `Checkpoints` is, for the checkpoints of a run in a store.

    The directory here has their small files, which process 0 keeps as they are in the store.

    Args:
        copy: Mirror of the workdir.
        below: name of the folder of checkpoints in the store, such as "scale_0/checkpoints".
        best_metric, keep_last, read_only: as for `Checkpoints`.

    Raises:
        WorkdirError: all are damaged.
    """

    def __init__(self, copy, below, best_metric, keep_last=1, read_only=False):
        super().__init__(copy.folder / below, best_metric, f"{copy.store.url}/{below}")
        self._copy, self._below = copy, below
        self._keep_last, self._read_only = keep_last, read_only
        self._saving = self._error = None
        self._awaited = None  # the time since which `wait` waits
        if not read_only:
            on_first_process(self._clean)
            self._newest = of_first_process(max(self._found(), default=None))

    def _name(self, step, name):
        return f"{self._below}/{step}/{name}"

    def _there(self, waiting=False):
        """{step: names of its objects} in the store, whole or not.

        waiting: whether for a store that cannot be reached.
        """
        store = self._copy.store
        found = mirror.steps_of(store.names() if waiting else store.names_at_once())
        return {
            int(os.path.basename(step)): names
            for step, names in found.items()
            if os.path.dirname(step) == self._below
        }

    def _files(self, step):
        return StoredFiles(f"{self._called}/{step}", checksums=not self._read_only)

    @contextlib.contextmanager
    def _refusing(self, more=""):
        """Raises errors of the store and of files as a WorkdirError."""
        try:
            yield
        except (DataError, OSError, WorkdirError) as error:
            raise mirror.refusal(error, f"{error}{more}") from error

    # What there is

    def _clean(self):
        """Deletes what killed runs left half written, and moves what is damaged."""
        with self._refusing():
            for step, names in self._there(waiting=True).items():
                if file_digests.NAME not in names:
                    self._delete(step, names)
            self._move_damaged()

    def _damage(self, step):
        """As `Checkpoints`; of a reader, who looks at what it reads, without checksums."""
        with self._refusing():
            return file_digests.damage(self._files(step)) or self._saved_score(step)[1]

    def _move(self, step, name):
        names = self._there().get(step, ())
        folder = f"{os.path.dirname(self._below)}/damaged/{name}".lstrip("/")
        for each in names:
            self._copy.own_store().copy(self._name(step, each), f"{folder}/{each}")
        self._delete(step, names)

    def _delete(self, step, names):
        for name in sorted(names, key=lambda name: name != file_digests.NAME):
            self._copy.own_store().delete([self._name(step, name)])
        shutil.rmtree(self.directory / str(step), ignore_errors=True)

    def latest(self):
        """The newest step, or None."""
        return self._newest

    # Saving

    def save(self, step, state, metrics=None):
        """Starts to write ``state``, as `Checkpoints.save`; all processes call this together.

        Raises:
            WorkdirError: the checkpoint before could not be written.
        """
        self.wait()
        if step == self._newest:
            return
        self._newest = step
        key, found = f"jax_pix2pix/saved/{next(_NUMBERS)}", pieces.held(state)
        arguments = (step, key, found, metrics)
        self._saving = threading.Thread(target=self._save, args=arguments, daemon=True)
        self._saving.start()
        logger.info("checkpoint of step %d: being written", step)

    def _save(self, step, key, found, metrics):
        digests = {}
        try:
            try:
                self._patiently(lambda: self._write(step, found, digests))
            except BaseException:
                collected(key, None)
                raise
            parts = collected(key, digests)  # None on other processes than the first
            if parts and None not in parts:  # else `wait` raises another process's error
                whole = {name: digest for part in parts for name, digest in part.items()}
                self._patiently(lambda: self._commit(step, whole, metrics))
        except Exception as error:
            self._error = step, error

    def _patiently(self, action):
        """Calls action() until it succeeds, or a store that fails was waited for long enough.

        That is FAILING_SECONDS while the run trains, and FINISH_SECONDS while it waits for this.
        """
        began, told = time.monotonic(), False
        while True:
            try:
                return action()
            except (DataError, OSError) as error:
                until = began + mirror.FAILING_SECONDS
                if self._awaited:
                    until = min(until, self._awaited + remote_workdir.FINISH_SECONDS)
                if time.monotonic() > until:
                    if not self._awaited:
                        store_lock.stop(f"{self._called} could not be written for long")
                    raise
                if not told:
                    store_lock.warn(f"{error}; it is tried again")
                    told = True
            time.sleep(mirror.LOOK_SECONDS)

    def _write(self, step, found, digests):
        """Writes this process's part of the arrays, and notes the digests of its files."""
        for file, content in pieces.files(found, jax.process_index()):
            name = f"{STATE}{file}"
            if name not in digests:
                self._copy.own_store().write({self._name(step, name): content})
                digests[name] = _digest(content)

    def _commit(self, step, digests, metrics):
        """Makes a checkpoint of what all have written, after the logs up to there."""
        self._copy.push()
        small = {VERSIONS: json.dumps(environment()).encode()}
        if metrics is not None:
            small[METRICS] = json.dumps(metrics).encode()
        pieces.check_indices(
            {name.removeprefix(STATE): size for name, (size, _) in digests.items()}
        )
        digests = digests | {name: _digest(content) for name, content in small.items()}
        last = {file_digests.NAME: json.dumps(digests).encode()}
        for files in (small, last):
            contents = {self._name(step, name): content for name, content in files.items()}
            self._copy.own_store().write(contents)
        for name, content in (small | last).items():
            safe_files.write(self.directory / str(step) / name, content, self._copy.folder)
        self._delete_old(step, digests)

    def _delete_old(self, newest, digests):
        """Deletes what keep_last does not keep, once the newest step is there as it was written.

        Steps beyond the newest are not this run's: whoever put them there must not make it delete
        its own. The next start finds them damaged.
        """
        there = {step: names for step, names in self._there().items() if step <= newest}
        if not digests.keys() <= set(there.get(newest, ())):
            store_lock.warn(f"{self._called}/{newest} lacks files: older steps are not deleted")
            return
        whole = {step for step, names in there.items() if file_digests.NAME in names}
        for step in {step for step in self._found() if step <= newest} - whole:
            shutil.rmtree(self.directory / str(step))  # somebody has deleted it in the store
        kept = {newest, *sorted(whole)[-self._keep_last :], self._best(whole)}
        for step in there.keys() - kept:
            self._delete(step, there[step])

    def wait(self):
        """Returns when all that was saved is in the store; all processes call this together."""
        with refusing_together():
            if self._saving:
                self._awaited = time.monotonic()
                self._saving.join()
                self._saving = self._awaited = None
            if self._error:
                (step, error), self._error = self._error, None
                with self._refusing(f"; the checkpoint of step {step} is not saved"):
                    raise error

    def close(self):
        if not self._read_only:
            self.wait()

    # Reading

    def restore(self, step, abstract_state):
        """As `Checkpoints.restore`; of the arrays, each process reads what its devices hold."""
        # A reader may be alone.
        with contextlib.nullcontext() if self._read_only else refusing_together():
            with self._refusing():
                files = self._files(step)
                if pieces.indices(files.state()):
                    state = self._read(step, files, abstract_state)
                    self._compare_versions(step)
                    return state
                return self._restore_copy(step, files, abstract_state)

    def _read(self, step, files, abstract_state):
        """Puts the state together from the pieces of all processes that wrote it."""
        digests, sizes = files.digests(), files.state()

        def read(name):
            content = files.read(STATE + name)
            if _digest(content) != digests.get(STATE + name):
                raise pieces.DamagedError(f"{name} does not hold what was written there")
            return content

        with of_this_config(files.path("state")):
            contents = pieces.read_indices(sizes, read)
            return pieces.restore(abstract_state, contents, sizes, files.ranges_of_state)

    def _restore_copy(self, step, files, abstract_state):
        """Restores what a run in a folder saved, which somebody has copied to the store."""
        with tempfile.TemporaryDirectory() as folder:
            files.get(os.path.join(folder, str(step)))
            checkpoints = Checkpoints(folder, self._best_metric, read_only=True)
            checkpoints.check_sound(step)
            state = checkpoints.restore(step, abstract_state)
            checkpoints.close()
        return state


def _digest(content):
    return [len(content), zlib.crc32(content)]
