"""One run at a time in a workdir."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs.processes.first_process import on_first_process
from jax_pix2pix.safety import safe_files

_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_MAX_HOLDER = 2**12  # characters that name the holder


@contextlib.contextmanager
def locked(workdir):
    """Locks the workdir, made if missing; process 0 does so for all processes of a run.

    The file `lock` is locked and names its holder. The operating system frees the lock however the
    process ends, so a file left behind blocks nobody, not even over NFS. A run that was refused
    before it wrote anything leaves nothing behind.

    Raises:
        WorkdirError: another run holds it; names that run's host, process and start.
        OSError: `lock` is a link or no file, or cannot be made.
    """
    taken = on_first_process(lambda: _take(workdir))
    try:
        yield
    finally:
        if taken:
            _release(workdir, *taken)


def _take(workdir):
    """-> (the locked file, whether the workdir is new)."""
    new = not os.path.isdir(workdir)
    path = os.path.join(workdir, "lock")
    while True:
        file = safe_files.open_lock(path, workdir)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise WorkdirError(_refusal(workdir, file)) from None
            if error.errno not in _NOT_SUPPORTED:
                raise
            warnings.warn(
                f"{path}: this file system has no locks ({error.strerror}), so that a second run "
                "in the same workdir would not be noticed",
                stacklevel=2,
            )
        # The run that held it may have removed the file after it was opened here.
        if os.path.lexists(path) and os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
            break
        file.close()
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    file.truncate(0)
    file.write(json.dumps(holder) + "\n")
    file.flush()
    return file, new


def _refusal(workdir, file):
    file.seek(0)
    try:
        holder = json.loads(file.read(_MAX_HOLDER))
        who = f"process {holder['pid']} on {holder['host']} since {holder['start']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # the holder has not written this yet
        who = "another process since a moment ago"
    file.close()
    return f"{workdir} is in use by {who}: wait for that run, end it, or use another workdir"


def _release(workdir, file, new):
    with contextlib.suppress(OSError):  # the workdir was removed or is not empty
        os.unlink(os.path.join(workdir, "lock"))
        if new:
            os.rmdir(workdir)
    file.close()
