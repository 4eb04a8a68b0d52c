"""Sizes and checksums of the files of a folder, by which damage is found and named."""

import json
import stat
import zlib
from pathlib import Path

NAME = "digests.json"
# Orbax writes the second in a thread that nothing waits for.
LEFT_OUT = (NAME, "_CHECKPOINT_METADATA")


def write(folder):
    """Writes NAME into the folder: {relative path: [bytes, CRC-32]}, without LEFT_OUT."""
    folder = Path(folder)
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in LEFT_OUT
    )
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / NAME).write_text(json.dumps(digests), encoding="utf-8")


def damage(folder, only=None):
    """What is wrong with a folder, naming the first file that is not as `write` saw it; or None.

    only: the relative path of the only file to check; None checks all.
    """
    folder = Path(folder)
    path = folder / NAME
    try:
        if not _is_own(path, folder):
            return f"{path} is not a file of this checkpoint"
        digests = json.loads(path.read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if only not in (None, name):
                continue
            path = folder / name
            if not _is_own(path, folder):
                return f"{path}, named in {folder / NAME}, is not a file of this checkpoint"
            size = path.stat().st_size
            if size != digest[0]:
                return f"{path} has {size} bytes instead of {digest[0]}"
            if _digest(path) != digest:
                return f"{path} does not hold what was written there"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        return f"{path} does not hold what was written there"
    return None


def _is_own(path, folder):
    """Whether it is, links followed, a regular file below the folder; devices never end."""
    if not path.resolve().is_relative_to(folder.resolve()):
        return False
    return stat.S_ISREG(path.stat().st_mode)


def _digest(path):
    size = checksum = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return [size, checksum]
