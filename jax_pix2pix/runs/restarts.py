"""Ends a run that a launcher starts again and again without getting further."""

import contextlib
import json
import os

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs.processes.first_process import on_first_process
from jax_pix2pix.runs.stores import remote_workdir
from jax_pix2pix.runs.workdir_files import newest_step, scale_directory
from jax_pix2pix.safety import safe_files

FILE = "starts.json"  # in the workdir: {"submission", "newest", "starts"}
STARTS = 3  # in a row without a newer checkpoint


@contextlib.contextmanager
def counted(workdir, submission):
    """Counts a start, for the block in which the run trains; the workdir's lock is held.

    A start is noted before anything of it can go wrong, in a store at once, so that one which is
    killed counts too. A newer checkpoint begins anew, and so does another submission.

    Args:
        submission: names what starts the run again, the same at each start; without it nothing is
            counted, as somebody who stops a run early and starts it by hand knows why.

    Raises:
        WorkdirError: STARTS starts of this submission made no newer checkpoint.
    """
    if not submission:
        yield
        return
    on_first_process(lambda: _count(workdir, submission))
    yield
    on_first_process(lambda: _begin_anew(workdir, submission))


def _begin_anew(workdir, submission):
    """Notes that a start ended well: it may be started again, to do nothing."""
    content = _content(submission, _newest(workdir), 0)
    safe_files.write(os.path.join(workdir, FILE), content, workdir)


def _count(workdir, submission):
    newest, before = _newest(workdir), _read(workdir)
    same = before.get("submission") == submission and before.get("newest") == newest
    starts = before.get("starts")
    starts = starts if same and isinstance(starts, int) else 0
    if starts >= STARTS:
        at = "the beginning" if newest is None else f"the checkpoint of step {newest[1]}"
        raise WorkdirError(
            f"{workdir}: {starts} starts in a row from {at} ended without a newer one, so that "
            f"this one is the last: the ends of the files in {os.path.join(workdir, 'logs')} and "
            "of the launcher's log say why; to try again all the same, submit it anew, or delete "
            f"{os.path.join(workdir, FILE)}; config.checkpoint_every_steps saves more often"
        )
    content = _content(submission, newest, starts + 1)
    remote_workdir.write_at_once(os.path.join(workdir, FILE), content)


def _newest(workdir):
    """[scale, step] of the newest checkpoint; scale is 0 without a pyramid. None without any."""
    steps, scale = [newest_step(workdir)], 0
    while os.path.isdir(folder := scale_directory(workdir, scale)):
        steps[scale:] = [newest_step(folder)]
        scale += 1
    found = [[scale, step] for scale, step in enumerate(steps) if step is not None]
    return found[-1] if found else None


def _read(workdir):
    try:
        content = safe_files.read_json(os.path.join(workdir, FILE), workdir)
    except (FileNotFoundError, ValueError, RecursionError):  # none yet, or damaged: count anew
        return {}
    return content if isinstance(content, dict) else {}


def _content(submission, newest, starts):
    return json.dumps({"submission": submission, "newest": newest, "starts": starts}) + "\n"
