"""Two copies of a run's files: here in a folder, and in a store. Checkpoints are not among them.

Of each checkpoint of the store the copy here has the small files, so that a run knows which there
are. Their arrays go to the store and come from it without a file here; see `store_checkpoints`.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

from jax_pix2pix.errors import DataError, UnreachableError, WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs import file_digests
from jax_pix2pix.runs.stores import storage, store_lock
from jax_pix2pix.safety import safe_files

LOOK_SECONDS = 1  # between tries of the last copy
LOG_SECONDS = 30  # between copies of changed files, each as a whole
FAILING_SECONDS = 900  # without a copy, after which the run saves and stops
AT_ONCE = 16  # files sent between two looks at the lock
LOCK = store_lock.NAME
# Digits of ASCII without a leading zero: no two names of a folder are one step.
CHECKPOINT = re.compile(r"((?:scale_[0-9]+/)?checkpoints/(?:0|[1-9][0-9]*))/(.+)")
STACKS = "stacks_"  # what the watchdog writes: it outlives a start, and goes to the store later
# A run does not read these.
RESULTS = re.compile(r"(scale_\d+/)?(samples|tensorboard|wandb|evaluation|damaged|profile)/")


class Mirror:
    """A run's files here in `folder`, and in the store at a url."""

    def __init__(self, url, folder):
        self.store, self.folder = storage.Store(url), Path(folder)
        self._files = {}  # {name: signature of the file here that the store has}
        self._turn = threading.RLock()  # of the threads that copy files
        self._done = threading.Event()
        self._copying = threading.Thread(target=self._copy, daemon=True)  # until done
        self.lock = store_lock.StoreLock(self.store, folder)

    def pull_anew(self, below):
        """Copies the run here, in place of what a killed run left, except stacks_*.

        If the store lacks any of that, it is kept in a folder beside this one. No part of the
        folder's path below `below` may be a link.
        """
        safe_files.make_folder(self.folder, below)
        old = [path for path in self.folder.iterdir() if not path.name.startswith(STACKS)]
        if lacking := self._lacking(self.store.names()):
            stamp = time.strftime("%Y%m%dT%H%M%SZ_", time.gmtime())
            kept = Path(tempfile.mkdtemp(prefix=f"run_kept_{stamp}", dir=self.folder.parent))
            for path in old:
                path.rename(kept / path.name)
            messages.warning(
                f"a run that was killed here left what {self.store.url} lacks ({lacking}): it is "
                f"kept in {kept}; delete that if you do not need it"
            )
        else:
            for path in old:
                _remove(path)
        self.pull()

    def follow(self, below):
        """Copies the run here for a process other than the first, which adds only logs to it."""
        safe_files.make_folder(self.folder, below)
        for path in self.folder.iterdir():
            if not (path.name.startswith(STACKS) or path.name == "logs"):
                _remove(path)
        self.pull()

    def _lacking(self, there):
        """A file here that is not there; or None."""
        for name in sorted(self._found_files().keys() - there.keys()):
            if not (RESULTS.match(name) or name.startswith((STACKS, "."))):
                return name
        return None

    def pull(self, checkpoints=True):
        """Copies what a run reads: files except pictures and results, and of checkpoints' arrays.

        Args:
            checkpoints: whether their small files are needed.
        """
        sizes, whole = self.store.names(), set()
        for step, names in steps_of(sizes).items() if checkpoints else ():
            if file_digests.NAME in names:
                whole.add(step)
            else:
                messages.warning(
                    f"{self.store.url}/{step} is not used: its upload goes on or broke off"
                )
        wanted = {}
        for name, size in sizes.items():
            match = CHECKPOINT.fullmatch(name)
            if match:
                if match[1] in whole and not match[2].startswith("state/"):
                    wanted[name] = size
            elif not RESULTS.match(name):
                wanted[name] = size
        wanted.pop(LOCK, None)
        self.store.get(wanted, self.folder)
        self._files = self._found_files()

    def push(self):
        """Copies what is new; all, if somebody has deleted objects."""
        self.lock.hold()
        with self._turn:
            if self.lock.was_gone.is_set():
                self._forget_what_is_gone()
                self.lock.was_gone.clear()
            self.push_files()

    def push_files(self):
        """Copies files that have changed."""
        with self._turn:
            found = self._found_files()
            changed = [name for name, sign in found.items() if self._files.get(name) != sign]
            for first in range(0, len(changed), AT_ONCE):
                some = changed[first : first + AT_ONCE]
                # Read as bytes, since they may grow meanwhile.
                contents = {name: (self.folder / name).read_bytes() for name in some}
                self.own_store().write(contents)
            self._files.update(found)

    def own_store(self):
        """The store, after a look that this run still has its lock: for each write."""
        self.lock.hold()
        return self.store

    def _forget_what_is_gone(self):
        """Somebody has deleted objects: what the store lacks counts as never copied."""
        names = self.store.names_at_once()
        self._files = {name: x for name, x in self._files.items() if name in names}

    def push_logs(self, process):
        """Copies what a process other than the first wrote alone; then deletes its folder here.

        The folder stays if the store fails, or the first process has ended and freed the lock.
        """
        names = [f"logs/process_{process:04d}.log"]
        paths = [*self.folder.glob(f"{STACKS}*"), *self.folder.glob("**/profile/**/*.pb")]
        names += [path.relative_to(self.folder).as_posix() for path in paths]
        names = [name for name in names if (self.folder / name).exists()]
        with contextlib.suppress(DataError, WorkdirError):  # process 0 reports a store that fails
            self.own_store().put(self.folder, names)
            shutil.rmtree(self.folder)

    def _found_files(self):
        found = {}
        for root, folders, names in os.walk(self.folder):
            if "checkpoints" in folders:
                folders.remove("checkpoints")
            for path in (Path(root, name) for name in names):
                # A link, such as W&B makes, could lead out of the run.
                if path.name != LOCK and path.suffix != ".tmp" and not path.is_symlink():
                    with contextlib.suppress(FileNotFoundError):
                        found[path.relative_to(self.folder).as_posix()] = _signature(path)
        return found

    # While the run trains

    def write(self, name, text):
        self.own_store().write({name: text.encode()})

    def start(self):
        """Begins to copy changes back; the lock gives its signs of life already."""
        self._copying.start()

    def _copy(self):
        copied = time.monotonic()
        while not self._done.wait(LOG_SECONDS):
            try:
                self.push()
                copied = time.monotonic()
            except WorkdirError:
                return  # the lock is lost, which stops the run
            except (DataError, OSError) as error:
                store_lock.warn(f"{error}; it is tried again")
                if time.monotonic() - copied > FAILING_SECONDS:
                    store_lock.stop(
                        f"{self.store.url} could not be written for {FAILING_SECONDS} s"
                    )
                    return

    def finish(self, seconds=0):
        """Makes the last copy, tried for so long if the store cannot be reached; frees the lock.

        Raises:
            WorkdirError: it fails, or another run has the lock.
            UnreachableError: the store cannot be reached.
        """
        self._done.set()
        self._copying.join()
        try:
            self._push_at_last(seconds)
            self.lock.release()
        except DataError as error:
            text = (
                f"{error}; the run's logs are in {self.folder}: the next start would take what "
                "the store has, and keep this beside it"
            )
            raise refusal(error, text) from error
        finally:
            self.lock.abandon()
        messages.info(f"uploaded: {self.store.url}")
        shutil.rmtree(self.folder)

    def _push_at_last(self, seconds):
        deadline, told = time.monotonic() + seconds, False
        while True:
            try:
                self._forget_what_is_gone()
                return self.push()
            except storage.Unreachable as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    messages.info(f"{error}; the last copy is tried for {seconds} s")
                    told = True
            time.sleep(LOOK_SECONDS)

    def give_up(self):
        """Does what `finish` does, as far as possible, while another error is raised."""
        with contextlib.suppress(DataError, WorkdirError, OSError):
            self.finish()


def refusal(error, text):
    """The WorkdirError for a DataError or WorkdirError."""
    passes = isinstance(error, storage.Unreachable | UnreachableError)
    return UnreachableError(text) if passes else WorkdirError(text)


def steps_of(names):
    """{checkpoints/N: names of its objects} of all checkpoints among the names of a store."""
    found = {}
    for match in filter(None, map(CHECKPOINT.fullmatch, names)):
        found.setdefault(match[1], set()).add(match[2])
    return found


def _signature(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _remove(path):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
