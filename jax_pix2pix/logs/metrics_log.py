"""Reads metrics.jsonl: lines of JSON, each of a split.

"train" and "validation" have values. "straggler" has the slowest and the median process of an
epoch. "start" and "seconds" have the time by kind. "unfinished" has the metrics of each step of a
logging interval during which a checkpoint was saved.

A killed run may have cut the last line short: a line without its end is ignored.
"""

import io
import json
import os

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.clock import KINDS
from jax_pix2pix.safety import safe_files

MAX_LINE = 2**26  # characters; "unfinished" has a line for all steps of a logging interval


def metrics_path(workdir):
    return os.path.join(workdir, "metrics.jsonl")


def read_metrics(workdir):
    """The lines of a workdir's metrics.jsonl as dicts.

    Raises:
        WorkdirError: a line is damaged; names it.
        OSError: the file is of another kind, or cannot be read.
    """
    path = metrics_path(workdir)
    return parsed(path, complete_lines(path, workdir), metrics_line)


def complete_lines(path, workdir):
    """The lines of a text file of a workdir, each with its end; none if there is no file.

    Raises:
        WorkdirError: a line is above MAX_LINE.
        OSError: the file is of another kind, or cannot be read.
    """
    try:
        content = safe_files.open_to_read(path, workdir)
    except FileNotFoundError:
        return []
    lines = []
    with io.TextIOWrapper(content, encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise WorkdirError(
                    f"{path}: line {len(lines) + 1} is above the limit of {MAX_LINE} characters: "
                    "delete that line, or restore the file"
                )
            if line.endswith("\n"):
                lines.append(line)
    return lines


def parsed(path, lines, parse):
    """[parse(line)] of the lines of a file.

    Raises:
        WorkdirError: parse refuses a line.
    """
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(parse(line))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise WorkdirError(
                f"{path}: line {number} is damaged ({line[:40].strip()!a}): delete that line, or "
                "restore the file"
            ) from None
    return values


def metrics_line(text):
    """A line as a dict; raises ValueError, KeyError, TypeError or AttributeError."""
    line = json.loads(text)
    if line["split"] in ("start", "seconds"):
        restart = line.get("restart", {})
        for value in (*line["seconds"].values(), *restart.values()):
            _number(value)
        if not set(line["seconds"]) <= set(KINDS):
            raise ValueError
        _number(line["time"])
    if line["split"] == "unfinished":
        for value in (value for metrics in line["metrics"] for value in metrics.values()):
            _number(value)
    _number(line["step"])
    _number(line.get("time", 0))
    return line


def points(line):
    """The values of a line to draw over its step, {name: value}; {} for splits without values."""
    if line["split"] in ("start", "seconds", "unfinished"):
        return {}
    apart = ("step", "epoch", "split", "time", "batch_ids")
    return {key: value for key, value in line.items() if key not in apart}


def _number(value):
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
