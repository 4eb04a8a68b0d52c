"""Goodput: the share of a run's wall time that went into steps that count.

It is read from metrics.jsonl alone. A line of split "start" or "seconds" has the process's seconds
since the previous line, by kind. A start after another also has what the restart cost. So each
second stands in one place, and all of them add up to the wall time.
"""

import json
import os

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.logs.clock import KINDS
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.logs.metrics_log import metrics_path, read_metrics
from jax_pix2pix.safety import safe_files

LOST = "lost"  # steps that were trained again after a restart, and what went with them
DOWN = "down"  # from a run's last line to the next start of a process
COLUMNS = (*KINDS, LOST, DOWN)


def restart_cost(lines, start_step, began):
    """What a restart from ``start_step`` cost.

    Args:
        lines: of metrics.jsonl as the previous run left it.
        start_step: step of the checkpoint that the run resumes from.
        began: time at which the resuming process began, in seconds since 1970.

    Returns:
        {"lost_steps", "lost_seconds": in the lines of steps that are trained again,
        "down_seconds": since the last line that has seconds, including any work after it}.
    """
    ended = [line["time"] for line in lines if "seconds" in line]
    lost = [line for line in lines if not kept(line, start_step)]
    return {
        "lost_steps": max((line["step"] for line in lost), default=start_step) - start_step,
        "lost_seconds": sum(sum(line.get("seconds", {}).values()) for line in lost),
        "down_seconds": max(0.0, began - ended[-1]) if ended else 0.0,
    }


def kept(line, start_step):
    """Whether a line stays when the run resumes from there; lines of split "start" always do."""
    return line["split"] == "start" or line["step"] <= start_step


def summarise(logs):
    """The shares of the wall time.

    Args:
        logs: a list of the lines of metrics.jsonl as dicts, for each scale of a pyramid, coarsest
            first, or for the only run.

    Returns:
        {"wall_seconds", "seconds": {kind: s}, "shares": {kind: of the wall time}, "attempts"}. The
        kinds are COLUMNS. Attempts are the starts, each with the same fields, "from_step",
        "to_step", "lost_steps" and "log", its index in ``logs``; its lost and down times belong to
        the restart that began it. None if no line has seconds.
    """
    attempts, ended = [], None
    for number, log in enumerate(logs):
        of_log = []
        for line in log:
            if line["split"] not in ("start", "seconds"):
                continue
            if line["split"] == "start" or not of_log:
                restart = line.get("restart", {})
                seconds = dict.fromkeys(COLUMNS, 0.0)
                seconds[LOST] = restart.get("lost_seconds", 0.0)
                seconds[DOWN] = restart.get("down_seconds", 0.0)
                if not of_log and ended is not None:  # above 0 if killed between two scales
                    began = line["time"] - sum(line["seconds"].values())
                    seconds[DOWN] += max(0.0, began - ended)
                of_log.append(
                    {
                        "log": number,
                        "from_step": line["step"],
                        "lost_steps": restart.get("lost_steps", 0),
                        "seconds": seconds,
                    }
                )
            attempt = of_log[-1]
            attempt["to_step"] = line["step"]
            for kind, value in line["seconds"].items():
                attempt["seconds"][kind] += value
            ended = line["time"]
        attempts += of_log
    if not attempts:
        return None
    total = {kind: sum(attempt["seconds"][kind] for attempt in attempts) for kind in COLUMNS}
    return _with_shares({"seconds": total}) | {"attempts": [_with_shares(x) for x in attempts]}


def _with_shares(summary):
    seconds = summary["seconds"]
    wall = sum(seconds.values())
    shares = {kind: value / wall if wall else 0.0 for kind, value in seconds.items()}
    return summary | {"wall_seconds": wall, "shares": shares}


def of_workdir(workdir):
    """`summarise` of a run or a pyramid's run, finished or not; None if no line has seconds.

    Raises:
        WorkdirError: there is no metrics.jsonl, or a line is damaged.
        OSError: metrics.jsonl is a link or no file, or cannot be read.
    """
    directories, scale = [], 0
    while os.path.isdir(directory := os.path.join(workdir, f"scale_{scale}")):
        directories.append(directory)
        scale += 1
    directories = directories or [workdir]
    if not os.path.exists(metrics_path(directories[0])):
        path = metrics_path(directories[0])
        raise WorkdirError(f"{path} does not exist: is this the workdir of a run?")
    return summarise([read_metrics(directory) for directory in directories])


def report(workdir, path=None, below=None):
    """The table of a run as text, None if no line has seconds; writes JSON to `path` if given.

    below: as for `safe_files.write`.

    Raises:
        WorkdirError, OSError: as `of_workdir`; or `path` cannot be written.
    """
    summary = of_workdir(workdir)
    if summary is None:
        return None
    if path:
        safe_files.write(path, json.dumps(summary, indent=2), below)
    return table(summary)


def report_end(workdir):
    """Reports a run that came to an end, and writes goodput.json."""
    try:
        text = report(workdir, os.path.join(workdir, "goodput.json"), workdir)
        if text:
            messages.info(text)
    except (WorkdirError, safe_files.UnsafeFileError) as error:
        # The log is gone or damaged, but the run is not.
        messages.warning(str(error))


def table(summary):
    """A summary as text: a line for each attempt, and their total."""
    pyramid = summary["attempts"][-1]["log"] > 0
    lines = [f"{'goodput':<22}{'wall s':>10}" + "".join(f"{kind:>11}" for kind in COLUMNS)]
    for attempt in summary["attempts"]:
        steps = f"steps {attempt['from_step']} to {attempt['to_step']}"
        lines.append(_row(f"{attempt['log']}: {steps}" if pyramid else steps, attempt))
    return "\n".join([*lines, _row("in all", summary)])


def _row(title, summary):
    shares = "".join(f"{summary['shares'][kind]:>11.1%}" for kind in COLUMNS)
    return f"{title:<22}{summary['wall_seconds']:>10.1f}{shares}"
