"""Two real processes that refuse together; tests/faults has whole commands that do."""

import re

import pytest

from tests import commands

# One start for all cases: the cluster stays up instead of being shut down at each refusal.
PROGRAM = """
import errno, os, sys, time
import jax
from jax._src import distributed
from jax_pix2pix.errors import *
from jax_pix2pix.runs.processes import first_process
from jax_pix2pix.runs.processes.first_process import exchange, on_first_process, refusing_together
from jax_pix2pix.runs.stores.storage import Unreachable

me = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], 2, me)
state = distributed.global_state
client = state.client

def shutdown():
    closed.append(True)
    state.client = None

jax.distributed.shutdown = shutdown

def fail(error):
    raise error

def first(error):
    on_first_process(lambda: fail(error))

def second(*errors):
    with refusing_together():
        if me == 1:
            fail(errors[0])
        exchange(None, len)  # gets it before the block's end
        fail(AssertionError("not told"))

def both(*errors):
    with refusing_together():
        fail(errors[me])

for case in (
    lambda: first(WorkdirError("runs/a is in use")),
    lambda: first(UnreachableError("s3://b/a is away")),
    lambda: first(PermissionError(errno.EACCES, "Permission denied", "runs/a/lock")),
    lambda: first(OSError(errno.ENOSPC, "No space left on device")),
    lambda: second(DataError("data is missing")),
    lambda: second(Unreachable("s3://b/a is away")),
    lambda: second(KeyError("a mistake")),
    lambda: both(ConfigError("mine"), DataError("yours")),
    lambda: exchange(me, lambda _: fail(ConfigError("we differ"))),
    lambda: exchange(me, lambda _: fail(KeyError("a mistake"))),
    lambda: exchange(me, lambda _: {1, 2}),  # nothing that JSON holds
):
    closed = []
    try:
        case()
    except Exception as error:
        print(f"{type(error).__name__}: {error} {len(closed)}", flush=True)
    state.client = client
print(on_first_process(lambda: f"done by {me}"), exchange(me, sum), flush=True)
if me:
    client.key_value_set("end", "")
else:  # its end would abort the other
    client.blocking_key_value_get("end", 30_000)
    time.sleep(0.5)
os._exit(0)
"""
EXPECTED = [
    ("WorkdirError: runs/a is in use", None),
    ("UnreachableError: s3://b/a is away", None),
    ("WorkdirError: [Errno 13] Permission denied: 'runs/a/lock'", None),
    # An open file's error has no name: launch.train names the workdir, as for one process.
    ("OSError: [Errno 28] No space left on device", None),
    ("DataError: process 1 (HOST): data is missing", "DataError: data is missing"),
    ("UnreachableError: process 1 (HOST): s3://b/a is away", "UnreachableError: s3://b/a is away"),
    ("TrainingError: process 1 (HOST): failed with KeyError: 'a mistake'", "KeyError: 'a mistake'"),
    ("ConfigError: mine", "DataError: yours"),
    ("ConfigError: we differ", None),
    ("KeyError: 'a mistake'", "TrainingError: process 0 (HOST): failed with KeyError: 'a mistake'"),
    (
        "TypeError: Object of type set is not JSON serializable",
        "TrainingError: process 0 (HOST): failed with TypeError: Object of type set is not JSON "
        "serializable",
    ),
]


@pytest.fixture(scope="module")
def printed():
    """The lines of each of two processes."""
    address = f"127.0.0.1:{commands.free_port()}"
    running = [commands.python("-c", PROGRAM, address, str(number)) for number in range(2)]
    try:
        outputs = [commands.finish(process, timeout=60)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [re.sub(r"([01]) \(\S+\)", r"\1 (HOST)", output).splitlines() for output in outputs]


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_all_processes_raise_what_one_refuses(printed, number):
    first, second = EXPECTED[number]
    assert printed[0][number] == f"{first} 1"
    assert printed[1][number] == f"{second or first} 1"


def test_results(printed):
    assert printed[0][-1] == "done by 0 1" and printed[1][-1] == "None 1"
