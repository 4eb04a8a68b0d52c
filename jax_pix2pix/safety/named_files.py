"""Files that the user names, as far as they differ from those in folders that others made."""

import errno
import os
import re
import stat

from jax_pix2pix.safety.unsafe_file import UnsafeFileError, link, special

_DESCRIPTOR = re.compile(r"/dev/fd/(\d{1,9})|/proc/self/fd/(\d{1,9})|/dev/std(out|err)")
MAX_LINKS = 40  # as many as the system follows


def check_output(path):
    """Raises OSError if `safe_files.writing` could not write to a file that the user named.

    To be called before work that would be lost. Makes no folder.
    """
    path, stream = output(path)
    folder = os.path.dirname(path) or "."
    if stream:
        return
    if os.path.isdir(path):
        raise special(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def output(path):
    """Follows the user's own links. -> (path, whether it is written to as it is, not replaced).

    In /tmp and the like others may have put a link or a pipe in the place of what the user names.
    """
    path = os.fsdecode(path)
    for _ in range(MAX_LINKS):
        if _DESCRIPTOR.fullmatch(path):
            return path, True
        if not os.path.islink(path):
            break
        if os.lstat(path).st_uid != os.geteuid():
            raise link(path)
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return path, False
    pipe = stat.S_ISFIFO(found.st_mode)
    if pipe and found.st_uid != os.geteuid():
        raise special(path)
    return path, pipe or stat.S_ISCHR(found.st_mode)


def open_stream(path):
    """Opens what `output` tells is written to as it is. -> binary file."""
    if own := _DESCRIPTOR.fullmatch(path):
        # Not opened anew: in a file its place would be another than that of what else is written.
        number = own[1] or own[2] or {"out": 1, "err": 2}[own[3]]
        return os.fdopen(os.dup(int(number)), "wb")
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise UnsafeFileError(
            error.errno, "is a pipe that nobody reads: start what reads it first", path
        ) from None
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def mode(path):
    """The permissions of an existing regular file, or None."""
    try:
        found = os.lstat(path).st_mode
    except OSError:
        return None
    return stat.S_IMODE(found) & 0o777 if stat.S_ISREG(found) else None
