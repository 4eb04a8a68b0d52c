"""Opens, writes and locks files in folders that somebody else may have made.

Such a folder may hold links to your files, pipes that never end and devices. So only regular files
are read, and what is written takes the place of a name instead of following it.

`below` is the folder that the caller was given, if any. Its own path may lead through links, since
the user named it. Below it no part of a path is followed if it is a link, even if somebody puts
one there meanwhile. Without `below` the user named the file itself: what is read may be a link, and
what is written may be one of the user's own, or a pipe or terminal.

Everything here raises OSError, an UnsafeFileError if the reason is the kind of a file.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat

from jax_pix2pix.safety import named_files
from jax_pix2pix.safety.unsafe_file import UnsafeFileError, link, special

MAX_JSON = 2**22  # bytes of a description; 4 MiB of "[]," become some 100 MB of lists
_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe must not wait
_TO_WRITE = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def open_to_read(path, below=None):
    """Opens a regular file. -> binary file."""
    with _parent(path, below) as (folder, name):
        flags = _TO_READ | (0 if below is None else os.O_NOFOLLOW)
        descriptor = _open(path, name, flags, folder)
    return os.fdopen(descriptor, "rb")


def read(path, limit, below=None):
    """The bytes of a regular file that has at most `limit`."""
    with open_to_read(path, below) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnsafeFileError(errno.EFBIG, f"is above the limit of {limit} bytes", os.fspath(path))
    return content


def read_json(path, below=None):
    """The content of a JSON file of at most MAX_JSON bytes.

    Raises:
        ValueError, RecursionError: it is not JSON in UTF-8.
    """
    return json.loads(read(path, MAX_JSON, below).decode())


@contextlib.contextmanager
def writing(path, below=None, private=False):
    """A binary file that takes the place of `path` when the block ends without an error.

    It is on disk before it has the name, so that a crash leaves the old file or the new one. Makes
    missing folders below `below`. Replaces a link, but no device, pipe or folder.

    Without `below` it takes the place of what `path` leads to through links of the user's own, with
    its mode. To a pipe of the user's own, a device and /dev/stdout it is written at once.

    Args:
        private: whether only its owner may read and write it; otherwise the umask decides.
    """
    mode = 0o600 if private else None
    if below is None:
        path, stream = named_files.output(path)
        if stream:
            with named_files.open_stream(path) as file:
                yield file
            return
        mode = mode or named_files.mode(path)
    with _parent(path, below, make=True) as (folder, name):
        _check_replaceable(path, name, folder)
        temporary = f".{name[:100]}.{secrets.token_hex(4)}.tmp"
        flags = os.O_WRONLY | os.O_EXCL | _TO_WRITE
        descriptor = _open(path, temporary, flags, folder, mode or 0o666)
        try:
            if mode:
                with contextlib.suppress(OSError):  # a disk without permissions
                    os.fchmod(descriptor, mode)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def write(path, content, below=None, private=False):
    """Writes bytes, or text as UTF-8, as `writing` does."""
    with writing(path, below, private) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing_by_name(path, below=None):
    """As `writing`, for libraries that open files by name: a path of the same name to write to.

    It lies in a hidden folder. All that is written there replaces what has its name beside `path`,
    which comes last. Here a link is replaced without `below` too, since names decide formats.
    """
    with _parent(path, below, make=True) as (folder, name):
        hidden = f".{name[:100]}.{secrets.token_hex(4)}"
        os.mkdir(hidden, 0o700, dir_fd=folder)
        try:
            own = os.open(hidden, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            try:
                yield os.path.join(
                    path_of(own, os.path.join(os.path.dirname(os.fspath(path)), hidden)), name
                )
                for written in sorted(os.listdir(own), key=lambda written: written == name):
                    _check_replaceable(path, written, folder)
                    beside = os.path.join(os.path.dirname(os.fspath(path)), written)
                    if below is None and (mode := named_files.mode(beside)):
                        with contextlib.suppress(OSError):
                            os.chmod(written, mode, dir_fd=own)
                    os.replace(written, written, src_dir_fd=own, dst_dir_fd=folder)
            finally:
                for left in os.listdir(own):
                    os.unlink(left, dir_fd=own)
                os.close(own)
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(hidden, dir_fd=folder)


def path_of(descriptor, path):
    """A path to what is open, whatever has its name now; `path` itself where there is no /proc."""
    own = f"/proc/self/fd/{descriptor}"
    return own if os.path.exists(own) else os.fspath(path)


def open_to_append(path, below=None):
    """Opens a text file at its end, made if missing. -> text file in UTF-8."""
    return open(_own(path, os.O_WRONLY | os.O_APPEND, below), "a", encoding="utf-8")


def open_lock(path, below=None):
    """Opens a file to be locked, made if missing; its content stays. -> text file in UTF-8."""
    return open(_own(path, os.O_RDWR | os.O_APPEND, below), "a+", encoding="utf-8")


def make_folder(path, below):
    """Makes a folder below another one, and those between, where they are missing."""
    with _parent(os.path.join(path, "."), below, make=True):
        pass


def check_tree(folder, below=None, apart=None):
    """Raises UnsafeFileError if anything below a folder is a link, or no file or folder.

    What others remove meanwhile is passed over, and so is a folder below that cannot be entered,
    lost+found of a disk for instance: nothing in it can be opened.

    Args:
        apart: compiled pattern of the relative paths of folders that are not looked into.
    """
    with _parent(os.path.join(folder, "."), below):
        waiting = [os.fspath(folder)]
    start = len(os.path.join(folder, ""))
    while waiting:
        with _listed(waiting.pop(), folder) as entries:
            for entry in entries:  # they know their kind, so that most need no further call
                if entry.is_symlink():
                    raise link(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if not (apart and apart.fullmatch(entry.path[start:])):
                        waiting.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise special(entry.path)


def _listed(path, root):
    """os.scandir, without entries if the folder is gone or, below the root, cannot be entered."""
    try:
        return os.scandir(path)
    except FileNotFoundError:
        return contextlib.nullcontext(())
    except PermissionError:
        try:
            os.stat(os.path.join(path, "."))
        except PermissionError:  # nor can anything in it be opened by its name
            if path != os.fspath(root):
                return contextlib.nullcontext(())
        raise


def inside(folder, name):
    """The path of a relative name, written with "/", below a folder.

    Raises:
        ValueError: the name could lead out of the folder, on any system, or be shown as another.
    """
    parts = name.split("/")
    if (
        not name
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in name
        or re.match(r"[A-Za-z]:", name)
        or _CONTROL.search(name)
    ):
        raise ValueError(f"the name {name[:200]!a} leads out of a folder or is not plain text")
    return os.path.join(folder, *parts)


def _own(path, flags, below):
    """Opens a file whose content changes in place: it must have no other name elsewhere."""
    with _parent(path, below, make=True) as (folder, name):
        descriptor = _open(path, name, flags | _TO_WRITE, folder)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise UnsafeFileError(
            errno.EMLINK, "is a hard link, and writing would change a file elsewhere: remove it",
            os.fspath(path),
        )  # fmt: skip
    return descriptor


def _check_replaceable(path, name, folder):
    """Refuses to put a file in the place of a device, pipe or folder, or of a link to one."""
    try:
        mode = os.stat(name, dir_fd=folder).st_mode
    except OSError:
        return  # there is nothing, or a link that leads nowhere
    if not stat.S_ISREG(mode):
        raise special(os.fspath(path))


def _open(path, name, flags, folder, mode=0o666):
    """Opens `name` in an open folder if it is a regular file; errors name `path`."""
    path = os.fspath(path)
    try:
        descriptor = os.open(name, flags, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise link(path) from None
        if error.errno in (errno.ENXIO, errno.ENODEV):  # a pipe without a reader, or a socket
            raise special(path) from None
        raise OSError(error.errno, error.strerror, path) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise special(path)
    os.set_blocking(descriptor, True)
    return descriptor


@contextlib.contextmanager
def _parent(path, below, make=False):
    """Opens the folder of `path` for the block. -> (its descriptor, the last part of the path)."""
    path = os.fspath(path)
    if below is None:
        start, parts = os.path.dirname(path) or ".", [os.path.basename(path)]
    else:
        start = os.fspath(below)
        relative = os.path.relpath(os.path.dirname(path) or ".", start)
        parts = [part for part in relative.split(os.sep) if part != "."]
        if ".." in parts:
            raise ValueError(f"{path} is not below {start}")
        parts.append(os.path.basename(path))
        if make:
            os.makedirs(start, exist_ok=True)
    folder = os.open(start, _FOLDER)
    try:
        for number, part in enumerate(parts[:-1]):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            try:
                deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                where = os.path.join(start, *parts[: number + 1])
                if os.path.islink(where):
                    raise link(where) from None
                raise OSError(error.errno, error.strerror, where) from None
            os.close(folder)
            folder = deeper
        yield folder, parts[-1]
    finally:
        os.close(folder)
