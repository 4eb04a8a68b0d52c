"""Tables that users write: CSV with a first line of column names. No TensorFlow."""

import csv
import io
import os

from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.shown import is_plain

MAX_BYTES = 2**26
MAX_ROWS = 10**6
MAX_LINE = 2**14  # characters: three paths of the longest that there are


def read_table(path, columns, first_line, optional=(), strict=False):
    """Reads a table.

    Args:
        columns: the columns that it must have, with a value in each line.
        first_line: its possible first lines, in words, for the error.
        optional: other columns to read, whose values may be missing; the rest is passed over.
        strict: whether other columns are refused, as one that is misspelt would say nothing.

    Returns:
        A list of (number of the line, {column: stripped string}), one for each line but the first
        and those that are blank.

    Raises:
        DataError: it cannot be read or is too large, or lacks a column or a value.
    """
    try:
        with safe_files.open_to_read(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise DataError(
                    f"{path} has {size} bytes, above the limit of {MAX_BYTES}: keep only the "
                    f"columns {', '.join(columns)}"
                )
            return _rows(path, file, columns, first_line, optional, strict)
    except safe_files.UnsafeFileError as error:
        raise DataError(str(error)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): save it as CSV") from error


def _rows(path, file, columns, first_line, optional, strict):
    lines = _lines(path, file)
    _, found = next(lines, (1, ()))
    if missing := [column for column in columns if column not in found]:
        raise DataError(f"{path} has no column {missing[0]}: its first line must be {first_line}")
    others = [name for name in found if name not in (*columns, *optional, "")]
    if strict and others:
        raise DataError(
            f"{path} has a column {others[0]}, which says nothing here: use {first_line}"
        )
    places = {name: found.index(name) for name in (*columns, *optional) if name in found}
    rows = []
    for number, values in lines:
        row = {name: values[at] if at < len(values) else "" for name, at in places.items()}
        if empty := [column for column in columns if not row[column]]:
            raise DataError(f"{path} has no {empty[0]} in line {number}: add it")
        rows.append((number, row))
        if len(rows) > MAX_ROWS:
            raise DataError(f"{path} has more lines than the limit of {MAX_ROWS}: split it")
    return rows


def _lines(path, file):
    """Yields (number of a line, its stripped values) of lines that are not empty, one at a time."""
    text, number = io.TextIOWrapper(file, "utf-8-sig", newline=""), 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{path} has a line {number} above the limit of {MAX_LINE} characters: save it as "
                "CSV, a line for each row"
            )
        line = line.rstrip("\r\n")
        if not is_plain(line.replace("\t", " ")):
            raise DataError(
                f"{path} holds a character in line {number} that is no text: save it as CSV in "
                "UTF-8"
            )
        (values,) = csv.reader([line], strict=True, skipinitialspace=True) if line else [[]]
        values = [value.strip() for value in values]
        if any(values):  # a spreadsheet writes blank lines as commas
            yield number, values
