"""A workdir in an object store: commands work in a local copy of it.

Training copies to the store while it runs. A run that is killed at any moment leaves there what it
would have left in a folder: whole checkpoints, and logs that are as new as these. A checkpoint
counts there if the digests of its files exist, which are written last and removed first.
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

LOOK_SECONDS = 1  # between looks for new checkpoints, which are copied at once
LOG_SECONDS = 30  # between copies of other changed files, each as a whole
FAILING_SECONDS = 900  # without a copy, after which the run saves and stops
FINISH_SECONDS = 300  # for which the last copy is tried, if the store cannot be reached
AT_ONCE = 16  # files sent between two looks at the lock
LOCK = store_lock.NAME
CHECKPOINT = re.compile(r"((?:scale_\d+/)?checkpoints/\d+)/(.+)")
STACKS = "stacks_"  # what the watchdog writes: it outlives a start, and goes to the store later
# A run does not read these.
RESULTS = re.compile(r"(scale_\d+/)?(samples|tensorboard|wandb|evaluation|damaged|profile)/")

_given = {}  # {local folder: the workdir that the user gave} of the copies in use
_mirrors = {}  # {local folder: _Mirror} of those that this process copies to the store


def as_given(path):
    """The path as the user knows it: with the store's url if it is in a copy."""
    for folder, workdir in _given.items():
        if path == folder or path.startswith(f"{folder}/"):
            return workdir + path[len(folder) :]
    return path


def write_at_once(path, text):
    """Writes a file of a workdir; if that is a copy of a store's, in the store too.

    Other files reach the store with the next copy, which a run that is killed does not make.

    Raises:
        WorkdirError: the store refuses it.
        UnreachableError: the store cannot be reached now.
    """
    safe_files.write(path, text, os.path.dirname(path))
    if mirror := _mirrors.get(os.path.dirname(path)):
        try:
            mirror.write(os.path.basename(path), text)
        except DataError as error:
            raise _refusal(error, str(error)) from error


@contextlib.contextmanager
def training(workdir):
    """The folder in which a run works: the workdir itself, or a local copy of a store's.

    Process 0 locks the workdir, copies it here, and copies changes back until the block ends.
    Processes that do not see its folder have copies of their own and copy only their logs back.

    Raises:
        WorkdirError: another run holds it; the store cannot be read or, in the end, written.
        UnreachableError: the store cannot be reached now.
    """
    if not storage.is_remote(workdir):
        yield workdir
        return
    # Not above: JAX takes seconds to import, and most commands and workdirs do not need it.
    import jax

    from jax_pix2pix.runs import workdir_lock
    from jax_pix2pix.runs.processes.first_process import on_first_process, refusing_together
    from jax_pix2pix.runs.processes.unshared_folders import are_apart

    cache = storage.cache_folder(workdir)
    folder = cache / "run"
    with contextlib.ExitStack() as stack:
        with _names_of(workdir, cache):
            on_first_process(lambda: safe_files.make_folder(cache, storage.cache_base()))
            stack.enter_context(workdir_lock.locked(cache))
        mirror, own = on_first_process(lambda: _begin(workdir, cache, folder)), None
        try:
            apart = are_apart(folder)
            with refusing_together():
                if apart and not mirror:
                    folder = cache / f"run_{jax.process_index()}"
                    own = _Mirror(workdir, folder)
                    own.lock.follow()
                    own.follow(cache.parent)
            with _names_of(workdir, folder, f" (here in {folder})"):
                yield os.fspath(folder)
        except BaseException:
            if mirror:
                mirror.give_up()
            raise
        finally:
            if own:
                own.push_logs(jax.process_index())
        on_first_process(lambda: mirror.finish(FINISH_SECONDS))


@contextlib.contextmanager
def copied(workdir, checkpoints=True, results=None):
    """A folder that holds the workdir: itself, or a copy of a store's until the block ends.

    Args:
        checkpoints: whether these are needed.
        results: a folder of the workdir; files written there are copied back.

    Raises:
        WorkdirError: there is nothing, or the store cannot be read or written.
        UnreachableError: the store cannot be reached now.
    """
    if not storage.is_remote(workdir):
        yield workdir
        return
    with tempfile.TemporaryDirectory() as folder, _names_of(workdir, folder):
        mirror = _Mirror(workdir, Path(folder))
        mirror.pull(checkpoints)
        if not any(Path(folder).iterdir()):
            raise WorkdirError(f"{workdir} holds nothing: is this the workdir of a run?")
        yield folder
        if results:
            mirror.push_files()
            messages.info(f"uploaded: {workdir.rstrip('/')}/{results}")


@contextlib.contextmanager
def _names_of(workdir, folder, more=""):
    """Makes errors and `as_given` name the workdir, not the folder here; `more` follows errors."""
    folder = os.fspath(folder)
    _given[folder] = workdir.rstrip("/")
    try:
        yield
    except (DataError, WorkdirError) as error:
        text = str(error)
        if folder in text:
            text = text.replace(folder, _given[folder]) + more
        raise _refusal(error, text) from error
    finally:
        del _given[folder]


def _refusal(error, text):
    """The WorkdirError for a DataError or WorkdirError."""
    passes = isinstance(error, storage.Unreachable | UnreachableError)
    return UnreachableError(text) if passes else WorkdirError(text)


def _begin(workdir, cache, folder):
    """Takes the lock, copies the run here and starts to copy back. -> _Mirror."""
    try:
        mirror = _Mirror(workdir, folder)
        mirror.store.names()  # refuses a missing store before anything is written there
        mirror.lock.take(cache)
        try:
            mirror.pull_anew(cache.parent)
        except BaseException:
            with contextlib.suppress(DataError, WorkdirError):
                mirror.lock.release()
            raise
    except DataError as error:
        raise _refusal(error, str(error)) from error
    mirror.start()
    return mirror


class _Mirror:
    """Two copies of a run: here in `folder`, and in the store at a url."""

    def __init__(self, url, folder):
        self.store, self._folder = storage.Store(url), folder
        self._files = {}  # {name: signature of the file here that the store has}
        self._steps = {}  # {checkpoints/N: the same of its digests}
        self._there = {}  # {checkpoints/N: names of its objects there}, even if incomplete
        self._done = threading.Event()
        self._copying = threading.Thread(target=self._copy, daemon=True)  # until done
        self.lock = store_lock.StoreLock(self.store, folder)

    # Copies

    def pull_anew(self, below):
        """Copies the run here, in place of what a killed run left, except stacks_*.

        If the store lacks any of that, it is kept in a folder beside this one. No part of the
        folder's path below `below` may be a link.
        """
        safe_files.make_folder(self._folder, below)
        old = [path for path in self._folder.iterdir() if not path.name.startswith(STACKS)]
        if lacking := self._lacking(self.store.names()):
            stamp = time.strftime("%Y%m%dT%H%M%SZ_", time.gmtime())
            kept = Path(tempfile.mkdtemp(prefix=f"run_kept_{stamp}", dir=self._folder.parent))
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
        safe_files.make_folder(self._folder, below)
        for path in self._folder.iterdir():
            if not (path.name.startswith(STACKS) or path.name == "logs"):
                _remove(path)
        self.pull()

    def _lacking(self, there):
        """A checkpoint here that is newer than all there, or a file that is not there; or None."""
        newest = {}
        for name in there:
            if (match := CHECKPOINT.fullmatch(name)) and match[2] == file_digests.NAME:
                parent, _, step = match[1].rpartition("/")
                newest[parent] = max(newest.get(parent, -1), int(step))
        for step in sorted(self._found_steps(), reverse=True):
            parent, _, number = step.rpartition("/")
            if int(number) > newest.get(parent, -1):
                return step
        for name in sorted(self._found_files().keys() - there.keys()):
            if not (RESULTS.match(name) or name.startswith((STACKS, "."))):
                return name
        return None

    def pull(self, checkpoints=True):
        """Copies what a run reads: whole checkpoints, and files except pictures and results."""
        sizes = self.store.names()
        self._there = _steps_of(sizes)
        whole = {step for step, names in self._there.items() if file_digests.NAME in names}
        for step in self._there.keys() - whole if checkpoints else ():
            messages.warning(
                f"{self.store.url}/{step} is not used: its upload goes on or broke off"
            )
        wanted = {}
        for name, size in sizes.items():
            match = CHECKPOINT.fullmatch(name)
            if match[1] in whole and checkpoints if match else not RESULTS.match(name):
                wanted[name] = size
        wanted.pop(LOCK, None)
        self.store.get(wanted, self._folder)
        self._files = self._found_files()
        self._steps = self._found_steps()

    def push(self):
        """Copies what is new, then deletes old checkpoints there if the newer ones are whole."""
        steps = self._found_steps()
        self.lock.hold()
        if self.lock.was_gone.is_set():
            self._forget_what_is_gone()
            self.lock.was_gone.clear()
        self.push_files()  # after finding steps, so that files are as new as the checkpoints
        sound = True
        for step, signature in steps.items():
            if self._steps.get(step) != signature:
                sound = self._push_step(step, signature) and sound
        for step in self._there.keys() - steps.keys() if sound else ():
            self._delete_step(step)

    def push_files(self):
        """Copies files that have changed, except checkpoints."""
        found = self._found_files()
        changed = [name for name, signature in found.items() if self._files.get(name) != signature]
        for some in _parts(changed):
            # Read as bytes, since they may grow meanwhile.
            contents = {name: (self._folder / name).read_bytes() for name in some}
            self._own_store().write(contents)
        self._files.update(found)

    def _own_store(self):
        """The store, after a look that this run still has its lock: for each write."""
        self.lock.hold()
        return self.store

    def _forget_what_is_gone(self):
        """Somebody has deleted objects: what the store lacks counts as never copied."""
        names = self.store.names_at_once()
        there = _steps_of(names)
        gone = {step for step, parts in self._there.items() if parts - there.get(step, set())}
        self._there = there
        self._steps = {step: x for step, x in self._steps.items() if step not in gone}
        self._files = {name: x for name, x in self._files.items() if name in names}

    def push_logs(self, process):
        """Copies what a process other than the first wrote alone; then deletes its folder here.

        The folder stays if the store fails, or the first process has ended and freed the lock.
        """
        names = [f"logs/process_{process:04d}.log"]
        paths = [*self._folder.glob(f"{STACKS}*"), *self._folder.glob("**/profile/**/*.pb")]
        names += [path.relative_to(self._folder).as_posix() for path in paths]
        names = [name for name in names if (self._folder / name).exists()]
        with contextlib.suppress(DataError, WorkdirError):  # process 0 reports a store that fails
            self._own_store().put(self._folder, names)
            shutil.rmtree(self._folder)

    def _push_step(self, step, signature):
        """Copies a checkpoint. -> whether it is in the store; not if deleted here meanwhile."""
        with tempfile.TemporaryDirectory(dir=self._folder.parent) as linked:
            copy = os.path.join(linked, "step")  # stays when the run deletes its own
            with contextlib.suppress(OSError):
                shutil.copytree(self._folder / step, copy, copy_function=os.link)
            if file_digests.damage(copy):
                return False
            files = [path for path in sorted(Path(copy).rglob("*")) if path.is_file()]
            names = [path.relative_to(copy).as_posix() for path in files]
            if step in self._there:
                self._delete_step(step)
            self._there[step] = set(names)
            names.remove(file_digests.NAME)
            for some in _parts(names):
                self._own_store().put(copy, some, f"{step}/")
            self._own_store().put(copy, [file_digests.NAME], f"{step}/")
            self._steps[step] = signature
        return True

    def _delete_step(self, step):
        names = self._there[step]
        for name in (file_digests.NAME, *sorted(names - {file_digests.NAME})):
            self._own_store().delete([f"{step}/{name}"])
        del self._there[step]
        self._steps.pop(step, None)

    def _found_steps(self):
        """{checkpoints/N: signature of its digests} of the checkpoints here."""
        found = {}
        for path in self._folder.glob(f"**/checkpoints/*/{file_digests.NAME}"):
            if path.parent.name.isdecimal():
                with contextlib.suppress(FileNotFoundError):
                    found[path.parent.relative_to(self._folder).as_posix()] = _signature(path)
        return found

    def _found_files(self):
        found = {}
        for root, folders, names in os.walk(self._folder):
            if "checkpoints" in folders:
                folders.remove("checkpoints")
            for path in (Path(root, name) for name in names):
                # A link, such as W&B makes, could lead out of the run.
                if path.name != LOCK and path.suffix != ".tmp" and not path.is_symlink():
                    with contextlib.suppress(FileNotFoundError):
                        found[path.relative_to(self._folder).as_posix()] = _signature(path)
        return found

    # While the run trains

    def write(self, name, text):
        self._own_store().write({name: text.encode()})

    def start(self):
        _mirrors[os.fspath(self._folder)] = self
        self._copying.start()
        self.lock.start()

    def _copy(self):
        copied = time.monotonic()
        while not self._done.wait(LOOK_SECONDS):
            due = time.monotonic() - copied > LOG_SECONDS or self._found_steps() != self._steps
            if not due:
                continue
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
                self._done.wait(LOG_SECONDS)

    def finish(self, seconds=0):
        """Makes the last copy, tried for so long if the store cannot be reached; frees the lock.

        Raises:
            WorkdirError: it fails, or another run has the lock.
            UnreachableError: the store cannot be reached.
        """
        self._done.set()
        self._copying.join()
        _mirrors.pop(os.fspath(self._folder), None)
        try:
            self._push_at_last(seconds)
            self.lock.release()
        except DataError as error:
            text = (
                f"{error}; all of the run is in {self._folder}: the next start would take what "
                "the store has, and keep this beside it"
            )
            raise _refusal(error, text) from error
        finally:
            self.lock.abandon()
        messages.info(f"uploaded: {self.store.url}")
        shutil.rmtree(self._folder)

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


def _signature(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _remove(path):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _steps_of(names):
    """{checkpoints/N: names of its objects} of all checkpoints among the names of a store."""
    found = {}
    for match in filter(None, map(CHECKPOINT.fullmatch, names)):
        found.setdefault(match[1], set()).add(match[2])
    return found


def _parts(names):
    return [names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE)]
