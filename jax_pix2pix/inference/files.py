"""Finds the files to read, and puts results in their places."""

import contextlib
import errno
import os
from pathlib import Path

from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import check_name


def find(source, output, endings):
    """Finds files with these endings: one by its path, or all below a folder.

    Hidden files and those below `output` are skipped.

    Args:
        endings: of their names, in lower case.

    Returns:
        (folder, names relative to it, sorted); no names where no file has such an ending.

    Raises:
        DataError: there is nothing at `source`, `output` is the folder of the files, or a name
            could not be shown or written as it is.
    """
    if not os.path.exists(source):
        raise DataError(f"{source} does not exist: give a file or a folder")
    if not os.path.isdir(source):
        folder, name = os.path.split(source)
        names = [name]
    else:
        folder, names = source, sorted(_below(source, output))
    check_apart(folder, output)
    names = [name for name in names if name.lower().endswith(endings)]
    for name in names:
        check_name(os.path.join(folder, name))
    return folder, names


def check_apart(folder, output):
    """Raises DataError if results would lie in the folder of the inputs."""
    if os.path.realpath(output) == os.path.realpath(folder):
        raise DataError(f"{output} is where the input is: give another output")


def check_distinct(results):
    """Raises DataError if two of {name of a file: name of its result} have the same result."""
    first = {}
    for name, result in results.items():
        if result in first:
            raise DataError(
                f"{first[result]} and {name} would both become {result}: rename one of them"
            )
        first[result] = name


def results(source, output, names, endings, result_name, others=()):
    """Places results: each in the folder `output`, or the only one in the file `output`.

    Args:
        source: a file or a folder; `names` are those found there.
        endings: an `output` with one of these is a file.
        result_name: name of a file -> name of its result in a folder.
        others: paths of other inputs, or None.

    Returns:
        {name: path of its result}.

    Raises:
        DataError: `output` is a file and `source` a folder; two files would have one result; or a
            result would replace `source` or one of the others.
    """
    if output.lower().endswith(endings):
        if os.path.isdir(source):
            raise DataError(f"{output} is one file and {source} a folder: give a folder to both")
        paths = {names[0]: output}
    else:
        paths = {name: os.path.join(output, result_name(name)) for name in names}
    check_distinct(paths)
    for path in filter(None, (source, *others)):
        if os.path.realpath(path) in map(os.path.realpath, paths.values()):
            raise DataError(f"{path} would be replaced by the result: give another output")
    return paths


def check_place(path):
    """Raises OSError, as `replacing` would, if the folder of `path` cannot be made or used."""
    folder = os.path.dirname(path) or "."
    missing, there = None, folder
    while not os.path.exists(there):
        missing, there = there, os.path.dirname(there) or "."
    if not os.path.isdir(there):
        number = errno.ENOTDIR if missing else errno.EEXIST
    elif not os.access(there, os.W_OK | os.X_OK):
        number = errno.EACCES
    else:
        return
    if number == errno.EACCES and not missing:
        raise OSError(f"{path} cannot be written ({os.strerror(number)})")
    raise OSError(number, os.strerror(number), missing or folder)


@contextlib.contextmanager
def replacing(path, below=None):
    """Yields a path of the same name in a hidden folder; the file written there replaces `path`.

    Files written beside it, such as the voxels of a .mhd, move first. Makes the folder of `path`.
    On an error nothing is left and `path` stays as it was.

    Args:
        below: the folder of results, if there is one: no link is followed below it.

    Raises:
        OSError: `path` cannot be written. It names `path`, as some libraries on a full disk do not.
    """
    if below is None:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        with safe_files.writing_by_name(path, below) as temporary:
            yield Path(temporary)
    except safe_files.UnsafeFileError:
        raise
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error})") from error


def _below(root, output):
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name[0] != "."
            and os.path.realpath(os.path.join(folder, name)) != os.path.realpath(output)
        ]
        for name in names:
            if name[0] != ".":
                yield os.path.relpath(os.path.join(folder, name), root)
