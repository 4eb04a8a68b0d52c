"""What a user says of source volumes that leave their geometry open. No TensorFlow of its own.

config.data.given_spacing_mm, given_axes and geometry are for all files; for some of them there is a
table in the source folder, geometry.csv, whose columns spacing_mm, axes and geometry may be empty:

    file_name,spacing_mm,axes,geometry
    volume-28.nii,1.6 0.57 0.57,,
    segmentation-28.nii,1.6 0.57 0.57,,
    volume-48.nii,,,sform

A pair on one grid needs a line for each of its files. Only files that do not state a spacing, or
state two, are read by it; see `imaging.geometry`.
"""

import dataclasses
import functools
import os

from input_pipeline.preparation import builder
from input_pipeline.preparation.source_folder import named
from input_pipeline.preparation.tables import read_table
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging.geometry import Given, given

TABLE = "geometry.csv"
COLUMNS = ("spacing_mm", "axes", "geometry")


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(builder.Config):
    """The options of data sets of volumes."""

    given_spacing_mm: tuple = ()  # between slices, rows and columns of files that do not state it
    given_axes: str = ""  # such as LPS, of files that do not state where their axes run to
    geometry: str = "agreed"  # or "sform", "qform": which counts where a NIfTI's two differ

    def __post_init__(self):
        super().__post_init__()
        try:
            self._of_all = given(self.given_spacing_mm, self.given_axes, self.geometry)
            self.given_spacing_mm = self._of_all.spacing_mm or ()
        except ConfigError as error:
            raise DataError(
                f"config.data: given_spacing_mm, given_axes or geometry: {error}"
            ) from None

    def given(self, root, name):
        """What the user says of a file. -> imaging.geometry.Given.

        Args:
            root: Path of the source folder.
            name: of the file, relative to it.

        Raises:
            DataError: the table is invalid.
        """
        own = _given_by_table(root).get(name)
        if own is None:
            return self._of_all
        return Given(
            own.spacing_mm or self._of_all.spacing_mm,
            own.axes or self._of_all.axes,
            own.form if own.form != Given.form else self._of_all.form,
        )


def add_table(folder):
    """Adds the table of a SourceFolder, if it has one, to its fingerprint, and checks it."""
    path = folder.named(TABLE)
    if not path.exists():
        return
    folder.add(path)
    for name in _given_by_table(folder.root):
        if os.path.isabs(name) or name.startswith("..") or not (folder.root / name).is_file():
            raise DataError(
                f"{path} names {name}, and there is no such file in {folder.root}: correct the "
                "path, which is relative to the table"
            )


def notes(settled):
    """Notes for the user about what had to be settled.

    Args:
        settled: a list of (patient, {what a file is, such as "CT" or "mask": its Geometry}). Where
            not all of these share a note, it names those that have it.
    """
    told = {}  # {note: {(patient, which files): None}}
    for patient, files in settled:
        for text in dict.fromkeys(geometry.note for geometry in files.values() if geometry.note):
            meant = [what for what, geometry in files.items() if geometry.note == text]
            which = "" if len(meant) == len(files) else f" ({', '.join(meant)})"
            told.setdefault(text, {})[patient, which] = None

    def note(text, whose):
        return lambda name: (
            f"{text}: {', '.join(name(patient) + which for patient, which in whose)}"
        )

    return [note(text, whose) for text, whose in told.items()]


def _given_by_table(root):
    """{name of a file: Given} of the table in a source folder; {} if there is none."""
    path = _path(root, os.stat(root).st_mtime_ns)
    if not path.exists():
        return {}
    stat = path.stat()
    return _table(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def _path(root, changed):
    """The Path of the table, looked for again once something was added to the folder."""
    del changed
    return named(root, TABLE)


@functools.lru_cache(maxsize=16)
def _table(path, changed, size):
    """{name of a file: Given} of a table, read again once it has changed."""
    del changed, size
    table = {}
    first_line = f"file_name and any of {', '.join(COLUMNS)}"
    for _, row in read_table(path, ("file_name",), first_line, COLUMNS, strict=True):
        name = os.path.normpath(row["file_name"])  # as `SourceFolder.add` has it
        if name in table:
            raise DataError(f"{path} names {name} twice: keep one line")
        try:
            table[name] = given(*(row.get(column, "") for column in COLUMNS))
        except ConfigError as error:
            raise DataError(f"{path}, {name}: {error}") from None
    return table
