"""A workdir in an object store: commands work in a local copy of its files.

Training copies to the store while it runs. A run that is killed at any moment leaves there what it
would have left in a folder: whole checkpoints, and logs that are as new as these. A checkpoint
counts there if the digests of its files exist, which are written last and removed first.
"""

import contextlib
import os
import tempfile

from jax_pix2pix.errors import DataError, WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.runs.stores.mirror import Mirror, refusal
from jax_pix2pix.safety import safe_files

FINISH_SECONDS = 300  # for which the last copy is tried, if the store cannot be reached

_given = {}  # {local folder: the workdir that the user gave} of the copies in use
_mirrors = {}  # {local folder: its Mirror} of the copies in use


def as_given(path):
    """The path as the user knows it: with the store's url if it is in a copy."""
    for folder, workdir in _given.items():
        if path == folder or path.startswith(f"{folder}/"):
            return workdir + path[len(folder) :]
    return path


def mirror_of(path):
    """The Mirror in whose folder a path is, and the path relative to it; (None, None) elsewhere."""
    for folder, mirror in _mirrors.items():
        if os.fspath(path).startswith(f"{folder}/"):
            return mirror, os.path.relpath(path, folder)
    return None, None


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
            raise refusal(error, str(error)) from error


@contextlib.contextmanager
def training(workdir):
    """The folder in which a run works: the workdir itself, or a local copy of a store's.

    Process 0 locks the workdir, copies it here, and copies changes back until the block ends.
    Processes that do not see its folder have copies of their own and copy only their logs back.
    All look at the lock before they write to the store.

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
    from jax_pix2pix.runs.processes.first_process import (
        exchange,
        on_first_process,
        refusing_together,
    )
    from jax_pix2pix.runs.processes.unshared_folders import are_apart

    cache = storage.cache_folder(workdir)
    folder = cache / "run"
    with contextlib.ExitStack() as stack:
        with _names_of(workdir, cache):
            on_first_process(lambda: safe_files.make_folder(cache, storage.cache_base()))
            stack.enter_context(workdir_lock.locked(cache))
        first, own = on_first_process(lambda: _begin(workdir, cache, folder)), None
        try:
            # Not read from the store, where another run's may be by now.
            token = exchange(first.lock.token if first else None, lambda tokens: tokens[0])
            apart = are_apart(folder)
            with refusing_together():
                mirror = first
                if not first:
                    folder = cache / f"run_{jax.process_index()}" if apart else folder
                    mirror = Mirror(workdir, folder)
                    mirror.lock.follow(token)
                if apart and not first:
                    own = mirror
                    own.follow(cache.parent)
            with _names_of(workdir, folder, f" (here in {folder})"), _known(mirror):
                yield os.fspath(folder)
        except BaseException:
            if first:
                first.give_up()
            raise
        finally:
            if own:
                own.push_logs(jax.process_index())
        on_first_process(lambda: first.finish(FINISH_SECONDS))


@contextlib.contextmanager
def copied(workdir, checkpoints=True, results=None):
    """A folder that holds the workdir: itself, or a copy of a store's until the block ends.

    The copy has the small files of checkpoints; `store_checkpoints` reads their arrays.

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
        mirror = Mirror(workdir, folder)
        mirror.pull(checkpoints)
        if not any(mirror.folder.iterdir()):
            raise WorkdirError(f"{workdir} holds nothing: is this the workdir of a run?")
        with _known(mirror):
            yield folder
        if results:
            mirror.push_files()
            messages.info(f"uploaded: {workdir.rstrip('/')}/{results}")


@contextlib.contextmanager
def _known(mirror):
    """Makes `mirror_of` know it in the block."""
    folder = os.fspath(mirror.folder)
    _mirrors[folder] = mirror
    try:
        yield
    finally:
        del _mirrors[folder]


@contextlib.contextmanager
def _names_of(workdir, folder, more=""):
    """Makes errors and `as_given` name the workdir, not the folder here; `more` follows errors."""
    folder = os.fspath(folder)
    _given[folder] = workdir.rstrip("/")
    try:
        yield
    except (DataError, WorkdirError) as error:
        text = str(error)
        if folder in text and _given[folder] not in text:  # else it tells the two apart
            text = text.replace(folder, _given[folder]) + more
        raise refusal(error, text) from error
    finally:
        del _given[folder]


def _begin(workdir, cache, folder):
    """Takes the lock, copies the run here and starts to copy back. -> Mirror."""
    try:
        mirror = Mirror(workdir, folder)
        mirror.store.names()  # refuses a missing store before anything is written there
        mirror.lock.take(cache)
        mirror.lock.start()  # now, as copying may take longer than a lock without signs of life has
        try:
            mirror.pull_anew(cache.parent)
        except BaseException:
            with contextlib.suppress(DataError, WorkdirError):
                mirror.lock.release()
            raise
    except DataError as error:
        raise refusal(error, str(error)) from error
    mirror.start()
    return mirror
