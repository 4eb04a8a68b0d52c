"""Finds the files to read, and puts results in their places."""

import contextlib
import errno
import os
from pathlib import Path
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import folder_files
from jax_pix2pix.imaging.folder_files import DICOM, SERIES, VOLUME
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.accounts import PASSED, USED, Account
from jax_pix2pix.safety.shown import check_name


class Inputs(NamedTuple):
    """The inputs of a request.

    Attributes:
        folder: of the names.
        names: relative paths of files, and of the folders of DICOM series; sorted.
        account: of all files below the folder, or None where one input was named.
    """

    folder: str
    names: list
    account: Account | None

    @property
    def one(self):
        """Whether the user named the one input, and no folder to be searched."""
        return self.account is None or self.names == ["."]


def find(source, output, takes, passed=lambda name: ""):
    """Finds inputs: one by its path, or all below a folder.

    Args:
        takes: kinds of `folder_files`; with SERIES, a folder's DICOM files are one input.
        passed: relative path of a file that could be taken -> why it is passed over, or "".

    Returns:
        Inputs; no names where there is nothing of these kinds.

    Raises:
        DataError: there is nothing at `source`; `output` is the folder of the files; a name could
            not be shown or written as it is; or DICOM files lie beside a volume, or in a folder
            without inputs of a run that takes none, so that some would be left out.
    """
    if not os.path.exists(source):
        raise DataError(f"{source} does not exist: give a file or a folder")
    if not os.path.isdir(source):
        folder, name = os.path.split(source)
        names = [name] if folder_files.kind_of(source)[0] in takes else []
        inputs = Inputs(folder, names, None)
    else:
        inputs = _below(source, output, takes, passed)
    check_apart(inputs.folder, output)
    for name in inputs.names:
        check_name(os.path.join(inputs.folder, name))
    return inputs


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


def results(source, output, inputs, endings, result_name, others=()):
    """Places results: each in the folder `output`, or the only one in the file `output`.

    Args:
        source: a file or a folder; `inputs` are the Inputs found there.
        endings: an `output` with one of these is a file.
        result_name: name of a file -> name of its result in a folder.
        others: paths of other inputs, or None.

    Returns:
        [(path of an input, path of its result)].

    Raises:
        DataError: `output` is a file and `source` a folder, or a file of another kind; two files
            would have one result; or a result would replace `source` or one of the others.
    """
    if output.lower().endswith(endings):
        if not inputs.one:
            raise DataError(f"{output} is one file and {source} a folder: give a folder to both")
        paths = {inputs.names[0]: output}
    elif output.lower().endswith(tuple(folder_files.BY_ENDING)):
        raise DataError(
            f"{output} is the name of a file, and this run writes {', '.join(endings)}: give one "
            "of these, or a folder"
        )
    else:
        paths = {name: os.path.join(output, result_name(name)) for name in inputs.names}
    check_distinct(paths)
    for path in filter(None, (source, *others)):
        if os.path.realpath(path) in map(os.path.realpath, paths.values()):
            raise DataError(f"{path} would be replaced by the result: give another output")
    return [(os.path.normpath(os.path.join(inputs.folder, n)), path) for n, path in paths.items()]


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


def _below(source, output, takes, passed):
    """The Inputs of a folder."""
    entries = folder_files.listed(source, output)
    series = folder_files.series_of(entries)
    account, names, volumes = Account(source), [], []
    for entry in entries:
        why = entry.why or passed(entry.name)
        if not why and entry.kind in takes:
            names.append(entry.name)
            volumes += [entry.name] if entry.kind == VOLUME else []
        elif not (entry.kind == DICOM and SERIES in takes):
            account.add(entry.name, PASSED, why or f"a {entry.kind}, which this run does not take")
    if SERIES in takes:
        for name in volumes:
            if files := series.get(os.path.dirname(name) or "."):
                raise DataError(
                    f"{os.path.join(source, name)} lies beside a DICOM series, {files[0]} and so "
                    "on: put each into a folder of its own, so that it is clear which is meant"
                )
        names += series
    elif VOLUME in takes and (lone := folder_files.alone(series, names)):
        raise DataError(
            f"{os.path.normpath(os.path.join(source, lone[0]))} holds DICOM files, "
            f"{os.path.basename(series[lone[0]][0])} and so on, which this run does not take: "
            "convert the series to a volume, or move it away"
        )
    for name in names:
        account.add(name, USED)
    return Inputs(source, sorted(names), account)
