"""A workdir in an object store: commands work in a local copy of it.

Training copies to the store while it runs. A run that is killed at any moment leaves there what it
would have left in a folder: whole checkpoints, and logs that are as new as these. A checkpoint
counts there if the digests of its files exist, which are written last and removed first.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from tqdm import tqdm

from jax_pix2pix import safe_files
from jax_pix2pix.errors import DataError, UnreachableError, WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs import file_digests, storage

LOOK_SECONDS = 1  # between looks for new checkpoints, which are copied at once
LOG_SECONDS = 30  # between copies of other changed files, each as a whole
FAILING_SECONDS = 900  # without a copy, after which the run saves and stops
FINISH_SECONDS = 300  # for which the last copy is tried, if the store cannot be reached
BEAT_SECONDS = 10  # between signs of life in the lock
DEAD_SECONDS = 60  # without one, after which a run counts as dead
LOCK = "lock"
CHECKPOINT = re.compile(r"((?:scale_\d+/)?checkpoints/\d+)/(.+)")
# A run does not read these.
RESULTS = re.compile(r"(scale_\d+/)?(samples|tensorboard|wandb|evaluation|damaged|profile)/")

_given = {}  # {local folder: the workdir that the user gave} of the copies in use


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
    for folder, workdir in _given.items():
        if os.path.dirname(path) == folder:
            try:
                storage.Store(workdir).write({os.path.basename(path): text.encode()})
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
    from jax_pix2pix.runs.first_process import on_first_process, refusing_together
    from jax_pix2pix.runs.unshared_folders import are_apart

    cache = storage.cache_folder(workdir)
    folder = cache / "run"
    with contextlib.ExitStack() as stack:
        with _names_of(workdir, cache):
            stack.enter_context(workdir_lock.locked(cache))
        mirror = on_first_process(lambda: _begin(workdir, cache, folder))
        apart, own = are_apart(folder), None
        try:
            with refusing_together():
                if apart and not mirror:
                    folder = cache / f"run_{jax.process_index()}"
                    own = _Mirror(workdir, folder)
                    own.pull_anew()
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
        mirror.take(cache)
        try:
            mirror.pull_anew()
        except BaseException:
            mirror.store.delete([LOCK])
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
        self._done, self._released = threading.Event(), threading.Event()
        self._copying = threading.Thread(target=self._copy, daemon=True)  # until done
        self._beating = threading.Thread(target=self._beat, daemon=True)  # until released
        self._held = None  # the lock's first content while this run has it

    # The lock

    def take(self, cache):
        """Takes the lock in the store; a dead run's, after DEAD_SECONDS without a sign of life.

        Raises:
            WorkdirError: another run is alive.
        """
        identity = cache / "identity"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex, encoding="utf-8")
        self._holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "cache": identity.read_text("utf-8"),  # this process holds its local lock
            "token": uuid.uuid4().hex,
        }
        self._held = json.dumps(self._holder | {"beat": 0}).encode()
        first, deadline = None, 0.0
        while not self.store.create(LOCK, self._held):
            there = self.store.read(LOCK)
            if there is None:
                continue
            other = _holder(there)
            if first is None:
                first, deadline = there, time.monotonic() + DEAD_SECONDS
                if other.get("cache") != self._holder["cache"]:
                    messages.info(
                        f"{_in_use(self.store.url, other)}: waiting {DEAD_SECONDS} s for a sign "
                        "of life"
                    )
            if there != first:
                raise WorkdirError(
                    f"{_in_use(self.store.url, other)}: wait for that run, end it, or use another "
                    "workdir"
                )
            if time.monotonic() > deadline or other.get("cache") == self._holder["cache"]:
                self.store.delete([LOCK])
            else:
                time.sleep(LOOK_SECONDS)

    def _beat(self):
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(DataError):  # _copy reports it
                there = self.store.read(LOCK)
                if _holder(there or b"{}").get("token") != self._holder["token"]:
                    self._held = None
                    _stop(f"{_in_use(self.store.url, _holder(there or b'{}'))}: this run stops")
                    return
                beat += 1
                self.store.write({LOCK: json.dumps(self._holder | {"beat": beat}).encode()})

    # Copies

    def pull_anew(self):
        """Copies the run here; first removes a killed run's files, except stacks_*."""
        if self._folder.is_dir():  # the store has all of it that counts
            for path in self._folder.iterdir():
                if not path.name.startswith("stacks_"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.pull()

    def pull(self, checkpoints=True):
        """Copies what a run reads: whole checkpoints, and files except pictures and results."""
        sizes = self.store.names()
        for name in sizes:
            if match := CHECKPOINT.fullmatch(name):
                self._there.setdefault(match[1], set()).add(match[2])
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
        # Read as bytes, since they may grow meanwhile.
        self.store.write({name: (self._folder / name).read_bytes() for name in changed})
        self._files.update(found)

    def push_logs(self, process):
        """Copies what a process other than the first wrote alone; deletes its folder here."""
        names = [f"logs/process_{process:04d}.log"]
        paths = [*self._folder.glob("stacks_*"), *self._folder.glob("**/profile/**/*.pb")]
        names += [path.relative_to(self._folder).as_posix() for path in paths]
        with contextlib.suppress(DataError):  # process 0 reports a store that fails
            self.store.put(self._folder, [name for name in names if (self._folder / name).exists()])
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
            self.store.put(copy, names, f"{step}/")
            self.store.put(copy, [file_digests.NAME], f"{step}/")
            self._steps[step] = signature
        return True

    def _delete_step(self, step):
        names = self._there[step]
        self.store.delete([f"{step}/{file_digests.NAME}"])
        self.store.delete([f"{step}/{name}" for name in sorted(names - {file_digests.NAME})])
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
                if path.name != LOCK and path.suffix != ".tmp":
                    with contextlib.suppress(FileNotFoundError):
                        found[path.relative_to(self._folder).as_posix()] = _signature(path)
        return found

    # While the run trains

    def start(self):
        self._copying.start()
        self._beating.start()

    def _copy(self):
        copied = time.monotonic()
        while not self._done.wait(LOOK_SECONDS):
            due = time.monotonic() - copied > LOG_SECONDS or self._found_steps() != self._steps
            if not due or not self._held:
                continue
            try:
                self.push()
                copied = time.monotonic()
            except (DataError, OSError) as error:
                tqdm.write(f"warning: {error}; it is tried again", file=sys.stderr)
                if time.monotonic() - copied > FAILING_SECONDS:
                    _stop(f"{self.store.url} could not be written for {FAILING_SECONDS} s")
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
        try:
            self._push_at_last(seconds)
            self._release()
            self.store.delete([LOCK])
        except DataError as error:
            text = (
                f"{error}; all of the run is in {self._folder}: the next start would take what "
                "the store has"
            )
            raise _refusal(error, text) from error
        finally:
            self._released.set()
        messages.info(f"uploaded: {self.store.url}")
        shutil.rmtree(self._folder)

    def _push_at_last(self, seconds):
        deadline, told = time.monotonic() + seconds, False
        while True:
            self._check_held()
            try:
                return self.push()
            except storage.Unreachable as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    messages.info(f"{error}; the last copy is tried for {seconds} s")
                    told = True
            time.sleep(LOOK_SECONDS)

    def _release(self):
        """Ends the signs of life: none may come after the lock is deleted."""
        self._released.set()
        self._beating.join()
        self._check_held()

    def _check_held(self):
        if not self._held:
            raise WorkdirError(f"{self.store.url} was taken by another run: see which is to go on")

    def give_up(self):
        """Does what `finish` does, as far as possible, while another error is raised."""
        with contextlib.suppress(DataError, WorkdirError, OSError):
            self.finish()


def _signature(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _holder(content):
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}


def _in_use(url, holder):
    who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('start')}"
    return f"{url} is in use by {who}"


def _stop(reason):
    """Makes the run save and stop on all processes, as when its machine is taken away."""
    tqdm.write(f"warning: {reason}", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
