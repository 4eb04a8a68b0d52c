"""One run at a time in a workdir of a store: the object `lock`, with signs of life.

Before each write to the store the run looks whether it still has the lock (`hold`). A process that
was frozen, and wakes when another run has taken over, then writes nothing. What remains is a freeze
between this look and the write that follows it. A sign of life is written on condition that the
lock is as it was read, which S3 itself sees to.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid

from tqdm import tqdm

from jax_pix2pix.errors import DataError, UnreachableError, WorkdirError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.redaction import redacted

BEAT_SECONDS = 10  # between signs of life
DEAD_SECONDS = 60  # without one, after which a run counts as dead
LOOK_SECONDS = 1  # between looks for a sign of life of another run
NAME = "lock"


class StoreLock:
    """The lock of a workdir.

    Args:
        store: storage.Store of the workdir.
        folder: where the run works here, for messages.

    Attributes:
        was_gone: set when the lock had vanished from the store and was made again; other objects
            may have vanished with it.
    """

    def __init__(self, store, folder):
        self._store, self._folder = store, folder
        self._holder = {}  # what the lock says of this run
        self._may_make = False  # only the process that took the lock makes it again
        self._seen = 0.0  # when this run last knew that it had the lock
        self._lost = None  # the error of `hold`, for good
        self._beats = 0
        self._turn = threading.RLock()  # a file that is being written is no other run's
        self.was_gone = threading.Event()
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def take(self, cache):
        """Takes the lock; a dead run's, after DEAD_SECONDS without a sign of life.

        Args:
            cache: the folder of this machine's copies of the workdir, locked by this process.

        Raises:
            WorkdirError: another run is alive.
        """
        identity = cache / "identity"
        if not identity.exists():
            safe_files.write(identity, uuid.uuid4().hex, cache.parent)
        self._holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "cache": safe_files.read(identity, 100, cache.parent).decode("utf-8", "replace"),
            "token": uuid.uuid4().hex,
        }
        while not self._taken():
            pass
        self._may_make = True

    def _taken(self):
        """Whether the lock could be taken; False asks for another try."""
        self._seen = time.time()
        if self._store.create(NAME, self._content()):
            return True
        first = self._store.read(NAME)
        if first is None:
            return False
        other, deadline = _holder(first), time.monotonic() + DEAD_SECONDS
        if other.get("cache") != self._holder["cache"]:  # else its process ended here
            messages.info(f"{self._in_use(other)}: waiting {DEAD_SECONDS} s for a sign of life")
            while time.monotonic() <= deadline:
                time.sleep(LOOK_SECONDS)
                there = self._store.read(NAME)
                if there is None:
                    return False
                if there != first:
                    raise WorkdirError(
                        f"{self._in_use(_holder(there))}: wait for that run, end it, or use "
                        "another workdir"
                    )
        self._seen = time.time()
        return self._store.replace(NAME, first, self._content())

    @property
    def token(self):
        """What tells this run's lock from others'; for the other processes to `follow`."""
        return self._holder["token"]

    def follow(self, token):
        """Lets a further process of the run, which has taken no lock, `hold` that of the first."""
        self._holder = {"token": token}

    def hold(self):
        """Checks that this run still has the lock; makes it again if it vanished a moment ago.

        A copy of a workdir that nobody trains has no lock, and nothing is checked.

        Returns:
            The lock's content.

        Raises:
            WorkdirError: another run has it.
            UnreachableError: it is gone, and another run may have had it meanwhile.
            DataError: the store cannot be asked.
        """
        if not self._holder:
            return None
        with self._turn:
            return self._held()

    def _held(self):
        if self._lost:
            raise self._lost
        # Not monotonic time, which stands still while a machine sleeps.
        now = time.time()
        there = self._store.read(NAME)
        if there is None and self._may_make and now - self._seen < DEAD_SECONDS:
            if not self._store.create(NAME, self._content()):
                return self._held()  # another run was faster
            self.was_gone.set()
            warn(f"the lock of {self._store.url} was gone, and is made again")
            there = self._content()
        if _holder(there).get("token") != self._holder["token"]:
            self._lost = self._loss(there)
            raise self._lost
        self._seen = now
        return there

    def _loss(self, there):
        here = f"what this run logged is in {self._folder}"
        if there is None:
            return UnreachableError(
                f"the lock of {self._store.url} is gone, and another run may have been there since "
                f"this one last saw it; {here}: start the same command again"
            )
        return WorkdirError(
            f"{self._store.url} was taken by another run: see which is to go on; {here}"
        )

    def start(self):
        """Begins to give signs of life."""
        self._beating.start()

    def _beat(self):
        while not self._released.wait(BEAT_SECONDS):
            try:
                self._beat_once()
            except WorkdirError as error:
                stop(f"{error}; this run stops")
                return
            except DataError:
                pass  # copies to the store report it

    def _beat_once(self):
        with self._turn:
            there, now = self.hold(), time.time()
            self._beats += 1
            if self._store.replace(NAME, there, self._content()):
                self._seen = now

    def release(self):
        """Ends the signs of life, of which none may come after the lock is deleted; deletes it."""
        self._released.set()
        if self._beating.ident:
            self._beating.join()
        with self._turn:
            self.hold()
            self._may_make = False  # a thread that is still writing finds itself without a lock
            self._store.delete([NAME])

    def abandon(self):
        """Ends the signs of life and leaves the lock."""
        self._released.set()

    def _content(self):
        return json.dumps(self._holder | {"beat": self._beats}).encode()

    def _in_use(self, holder):
        who = "another run, whose lock does not say which"
        if "pid" in holder:
            who = f"process {holder['pid']} on {holder.get('host')} since {holder.get('start')}"
        return f"{self._store.url} is in use by {who[:200]}"


def _holder(content):
    try:
        return dict(json.loads(content or b"{}"))
    except (ValueError, TypeError, RecursionError):
        return {}


def stop(reason):
    """Makes the run save and stop on all processes, as when its machine is taken away."""
    warn(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def warn(text):
    """Shows a warning beside a progress bar."""
    with contextlib.suppress(OSError):
        tqdm.write(f"warning: {redacted(text)}", file=sys.stderr)
