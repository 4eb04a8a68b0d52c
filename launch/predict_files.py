"""Which files `launch.predict` reads, and how its results take their places."""

import contextlib
import os
from pathlib import Path

from input_pipeline.safe_io import DataError


def find(source, output, endings):
    """Finds the files of some kinds: one by its path, or all below a folder.

    What is hidden, or below `output`, is passed over.

    Args:
        endings: of their names, in lower case.

    Returns:
        (folder, names relative to it, sorted); no names where there are none of these kinds.

    Raises:
        DataError: there is nothing at `source`, or `output` is the folder of the files.
    """
    if not os.path.exists(source):
        raise DataError(f"{source} does not exist: give a file or a folder to --input")
    if not os.path.isdir(source):
        folder, name = os.path.split(source)
        names = [name]
    else:
        folder, names = source, sorted(_below(source, output))
    check_apart(folder, output)
    return folder, [name for name in names if name.lower().endswith(endings)]


def check_apart(folder, output):
    """Raises DataError where results would lie among what they are made of."""
    if os.path.realpath(output) == os.path.realpath(folder):
        raise DataError(f"{output} is where the input is: give another --output")


def check_distinct(results):
    """Raises DataError where two of {name of a file: name of its result} have the same result."""
    first = {}
    for name, result in results.items():
        if result in first:
            raise DataError(
                f"{first[result]} and {name} would both become {result}: rename one of them"
            )
        first[result] = name


@contextlib.contextmanager
def replacing(path):
    """Gives a hidden name beside `path`; what was written there takes the place of `path` at once.

    Makes the folder. On an error nothing is left and `path` stays as it was.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = Path(folder, f".{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
