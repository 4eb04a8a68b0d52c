"""Tables that users write: CSV with a first line of column names. No TensorFlow."""

import csv
import io
import os

from jax_pix2pix import safe_files
from jax_pix2pix.errors import DataError

MAX_BYTES = 2**26  # a line for each of 1e6 files


def read_table(path, columns, first_line):
    """Reads a table.

    Args:
        columns: the columns that it must have, with a value in each line.
        first_line: its possible first lines, in words, for the error.

    Returns:
        A list of {column: stripped string}, one for each line but the first.

    Raises:
        DataError: it cannot be read or is too large, or lacks a column or a value.
    """
    try:
        opened = safe_files.open_to_read(path)
        with io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise DataError(
                    f"{path} has {size} bytes, above the limit of {MAX_BYTES}: keep only the "
                    f"columns {', '.join(columns)}"
                )
            reader = csv.DictReader(file)
            rows = list(reader)
            found = [column or "" for column in reader.fieldnames or ()]
    except safe_files.UnsafeFileError as error:
        raise DataError(str(error)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): save it as CSV") from error
    if missing := [column for column in columns if column not in found]:
        raise DataError(f"{path} has no column {missing[0]}: its first line must be {first_line}")
    rows = [{column: (row[column] or "").strip() for column in found} for row in rows]
    for number, row in enumerate(rows, 2):
        if empty := [column for column in columns if not row[column]]:
            raise DataError(f"{path} has no {empty[0]} in line {number}: add it")
    return rows
