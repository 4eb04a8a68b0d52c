"""Sizes and checksums of the files of a folder, by which damage is found and named."""

import contextlib
import json
import os
import zlib
from pathlib import Path

from jax_pix2pix.safety import safe_files

NAME = "digests.json"
LATE = "_CHECKPOINT_METADATA"  # Orbax writes it in a thread that nothing waits for
LEFT_OUT = (NAME, LATE, "commit_success.txt")  # the last one comes when all is done


def write(folder):
    """Writes NAME into the folder: {relative path: [bytes, CRC-32]}, without LEFT_OUT."""
    folder = Path(folder)
    digests = {name: _digest(folder / name, folder) for name in _described(folder)}
    safe_files.write(folder / NAME, json.dumps(digests), folder)


def damage(folder, only=None):
    """What is wrong with a folder, naming the first file that is not as `write` saw it; or None.

    only: the relative path of the only file to check. Without it all are checked, and that there
        are no others, nor links.
    """
    folder = Path(folder)
    path = folder / NAME
    try:
        digests = safe_files.read_json(path, below=folder.parent)
        if not digests:
            return f"{path} names no file"
        if only is None:
            safe_files.check_tree(folder)
            names = sorted(digests.keys() | set(_described(folder)))
        else:
            names = [only] if only in digests or (folder / only).exists() else []
        for name in names:
            if not _is_inside(folder, name):
                return f"{folder / NAME} names {name!a}, which is no file of this checkpoint"
            path = folder / name
            if name not in digests:
                return f"{path} is not named in {folder / NAME}"
            size, checksum = digests[name]
            with safe_files.open_to_read(path, below=folder) as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    return f"{path} has {found} bytes instead of {size}"
                if _checksum(file) != checksum:
                    return f"{path} does not hold what was written there"
        if only is None:
            path = folder / LATE
            _check_late(path, folder)
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


def _is_inside(folder, name):
    try:
        return bool(safe_files.inside(folder, name))
    except ValueError:
        return False


def _check_late(path, folder):
    """Raises what keeps Orbax from reading LATE: it bears with any text, but not with any size."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        safe_files.read_json(path, below=folder)


def _digest(path, folder):
    with safe_files.open_to_read(path, below=folder) as file:
        return [os.fstat(file.fileno()).st_size, _checksum(file)]


def _checksum(file):
    checksum = 0
    while part := file.read(1 << 20):
        checksum = zlib.crc32(part, checksum)
    return checksum
