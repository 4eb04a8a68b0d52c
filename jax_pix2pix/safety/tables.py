"""Tables that we write, as CSV, which people open with spreadsheets.

A spreadsheet runs text that begins with "=", "+", "-" or "@" as a formula, which may start programs
and send what other cells hold. Such text gets a "'" in front, as the OWASP page on CSV injection
names it; numbers stay numbers. Where commas are decimal, spreadsheets cut files at ";" instead,
whatever the quotes, so what follows one is treated alike. `records` takes the "'" off again: names
come back as they were.
"""

import csv
import io
import re

from jax_pix2pix.safety.shown import shown

# The last four are their full-width forms, which some spreadsheets take for them.
_FORMULA = re.compile("(^|;)([ ']*[=+\\-@\uff1d\uff0b\uff0d\uff20])")
_QUOTED = re.compile("(^|;)'([ ']*[=+\\-@\uff1d\uff0b\uff0d\uff20])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.ASCII | re.IGNORECASE)


def csv_text(columns, rows):
    """A table as text.

    Args:
        columns: names; they are the first line.
        rows: lists of values, or dicts by column; a value that a dict lacks is empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_cell, columns))
    for row in rows:
        values = [row.get(name, "") for name in columns] if isinstance(row, dict) else row
        writer.writerow(map(_cell, values))
    return file.getvalue()


def records(text):
    """Yields the lines of a text that `csv_text` made: {column: string}.

    Raises:
        csv.Error: it is no CSV.
    """
    for line in csv.DictReader(io.StringIO(text, newline="")):
        yield {_plain(name): _plain(value) for name, value in line.items()}


def _cell(value):
    text = shown("" if value is None else value)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'\2", text)


def _plain(value):
    """The text of a cell; `csv.DictReader` has None or a list where a line is cut or too long."""
    return _QUOTED.sub(r"\1\2", value) if isinstance(value, str) else value
