"""Refusals of process 0 among several, from its own view; tests/faults has real processes."""

import errno

import jax
import pytest

from jax_pix2pix.errors import UnreachableError, WorkdirError
from jax_pix2pix.runs import first_process


@pytest.fixture
def first_of_two(monkeypatch):
    """Makes this process the first of two, which receives its own broadcasts."""
    closed = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: closed.append(True))
    monkeypatch.setattr(first_process, "_of_first_process", lambda text: text)
    monkeypatch.setattr(first_process.multihost_utils, "broadcast_one_to_all", lambda x: x)
    return closed


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (WorkdirError("runs/a is in use"), WorkdirError("runs/a is in use")),
        (UnreachableError("s3://b/a is away"), UnreachableError("s3://b/a is away")),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/a/lock"),
            WorkdirError("[Errno 13] Permission denied: 'runs/a/lock'"),
        ),
        # An open file's error has no name: launch.train names the workdir, as for one process.
        (
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.ENOSPC, "No space left on device"),
        ),
    ],
)
def test_a_refusal_says_where_or_leaves_that_to_the_caller(first_of_two, error, raised):
    def refuse():
        raise error

    with pytest.raises(type(raised)) as found:
        first_process.on_first_process(refuse)
    assert str(found.value) == str(raised) and type(found.value) is type(raised)
    assert first_of_two == [True]
