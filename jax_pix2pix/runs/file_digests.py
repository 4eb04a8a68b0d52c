"""Sizes and checksums of the files of a folder, by which damage is found and named."""

import contextlib
import json
import os
import zlib
from pathlib import Path

from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import safe_files

NAME = "digests.json"
LATE = "_CHECKPOINT_METADATA"  # Orbax writes it in a thread that nothing waits for
LEFT_OUT = (NAME, LATE, "commit_success.txt")  # the last one comes when all is done


def write(folder):
    """Writes NAME into the folder: {relative path: [bytes, CRC-32]}, without LEFT_OUT."""
    folder = Path(folder)
    digests = {name: _digest(folder / name, folder) for name in _described(folder)}
    safe_files.write(folder / NAME, json.dumps(digests), folder)


class Folder:
    """The files that `damage` looks at, here those of a folder; each method raises OSError."""

    def __init__(self, folder):
        self._folder = Path(folder)

    def path(self, name):
        return self._folder / name

    def digests(self):
        return safe_files.read_json(self.path(NAME), below=self._folder.parent)

    def names(self):
        """Relative paths of all that have digests, or should have them, if all are safe to open."""
        safe_files.check_tree(self._folder)
        with contextlib.suppress(FileNotFoundError, ValueError):
            # Orbax bears with any text there, but not with any size.
            safe_files.read_json(self.path(LATE), below=self._folder)
        return _described(self._folder)

    def exists(self, name):
        return self.path(name).exists()

    @contextlib.contextmanager
    def opened(self, name):
        """-> (bytes of a file, function that gives its CRC-32; None if nobody asks for that)."""
        with safe_files.open_to_read(self.path(name), below=self._folder) as file:
            yield os.fstat(file.fileno()).st_size, lambda: _checksum(file)


def damage(files, only=None):
    """What is wrong with files, naming the first that is not as it was written; or None.

    files: a folder's path, or an object like `Folder`.
    only: the relative path of the only file to check. Without it all are checked, and that there
        are no others, nor links.
    """
    files = Folder(files) if isinstance(files, str | os.PathLike) else files
    path = files.path(NAME)
    try:
        digests = files.digests()
        if not digests:
            return f"{path} names no file"
        if only is None:
            names = sorted(digests.keys() | set(files.names()))
        else:
            names = [only] if only in digests or files.exists(only) else []
        for name in names:
            if not _is_plain(name):
                return f"{files.path(NAME)} names {name!a}, which is no file of this checkpoint"
            path = files.path(name)
            if name not in digests:
                return f"{path} is not named in {files.path(NAME)}"
            size, checksum = digests[name]
            with files.opened(name) as (found, found_checksum):
                if found != size:
                    return f"{path} has {found} bytes instead of {size}"
                if found_checksum and found_checksum() != checksum:
                    return f"{path} does not hold what was written there"
    except DataError:  # of a store, which says nothing of the files
        raise
    except FileNotFoundError:
        return f"{path} is missing"
    except safe_files.UnsafeFileError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        return f"{path} does not hold what was written there"
    return None


def _described(folder):
    """Relative paths of the files that have digests, or should have them."""
    paths = (path for path in Path(folder).rglob("*") if not path.is_dir())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name not in LEFT_OUT]


def _is_plain(name):
    try:
        return bool(safe_files.inside("", name))
    except ValueError:
        return False


def _digest(path, folder):
    with safe_files.open_to_read(path, below=folder) as file:
        return [os.fstat(file.fileno()).st_size, _checksum(file)]


def _checksum(file):
    checksum = 0
    while part := file.read(1 << 20):
        checksum = zlib.crc32(part, checksum)
    return checksum
