"""What became of each file that a command was given: used, passed over, failed.

No file is passed over in silence: whatever reads a folder ends with the line of an `Account`, and
writes its table beside the result.
"""

import collections
import os

from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.tables import csv_text

USED, PASSED, FAILED, LEFT = "used", "passed over", "failed", "not reached"
TABLE = "files.csv"  # its name in a folder of results


class Account:
    """Files by name, each with what became of it and, unless it was used, why."""

    def __init__(self, folder):
        self.folder = os.fspath(folder)
        self._files = {}  # {name: (what, why)}

    def add(self, name, what, why=""):
        """Enters a file, or replaces its entry.

        Args:
            name: relative to the folder.
            what: USED, PASSED, FAILED or LEFT.
            why: in words.
        """
        self._files[name] = what, " ".join(str(why).split())

    def names(self, what):
        """The names of the files of which this became, sorted."""
        return sorted(name for name, (became, _) in self._files.items() if became == what)

    def why(self, name):
        """Why a file was not used."""
        return self._files[name][1]

    def line(self, called=None):
        """The summary: how many were used, passed over for each reason, and failed.

        Args:
            called: what the folder is called where true names must not be shown; by default its
                path is shown, and a file for each reason.
        """
        named = called is None
        parts = [f"{len(self.names(USED))} used"]
        if passed := self.names(PASSED):
            reasons = collections.defaultdict(list)
            for name in passed:
                reasons[self.why(name)].append(name)
            told = (
                f"{len(names)} {why}" + (f": {_some(names)}" if named else "")
                for why, names in sorted(reasons.items(), key=lambda item: -len(item[1]))
            )
            parts.append(f"{len(passed)} passed over ({'; '.join(told)})")
        for what in (FAILED, LEFT):
            if names := self.names(what):
                parts.append(f"{len(names)} {what}" + (f" ({_some(names)})" if named else ""))
        return f"files of {self.folder if named else called}: {', '.join(parts)}"

    def rows(self, renamed=str):
        """[[name to show, what, why]], sorted. renamed: name -> the name to show."""
        return sorted([renamed(name), *became] for name, became in self._files.items())

    def save(self, path, below=None, renamed=str):
        """Writes the table, columns file, what and why. Arguments as `safe_files.write`, `rows`."""
        save_table(path, ["file", "what", "why"], self.rows(renamed), below)


def save_table(path, columns, rows, below=None):
    """Writes a table of files."""
    safe_files.write(path, csv_text(columns, rows), below)


def _some(names):
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
