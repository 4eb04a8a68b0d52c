"""The objects of one checkpoint in a store, as `file_digests` and `pieces` look at them."""

import contextlib
import json
import zlib

from jax_pix2pix.runs import file_digests
from jax_pix2pix.runs.stores import storage

STATE = "state/"
PART = 2**26  # bytes to read at a time for a checksum


class StoredFiles:
    """The objects below a url, by name; see `file_digests.Folder`.

    Args:
        url: of the checkpoint.
        checksums: whether `file_digests.damage` is to read the state's files, and not small ones
            alone.
    """

    def __init__(self, url, checksums):
        self._store, self._checksums = storage.Store(url), checksums
        self._sizes = self._store.names()

    def path(self, name):
        return f"{self._store.url}/{name}"

    def read(self, name):
        content = self._store.read_patiently(name)
        if content is None:
            raise FileNotFoundError(self.path(name))
        return content

    def digests(self):
        return json.loads(self.read(file_digests.NAME))

    def names(self):
        return [name for name in self._sizes if name not in file_digests.LEFT_OUT]

    def exists(self, name):
        return name in self._sizes

    @contextlib.contextmanager
    def opened(self, name):
        if name not in self._sizes:
            raise FileNotFoundError(self.path(name))
        wanted = self._checksums or not name.startswith(STATE)
        yield self._sizes[name], (lambda: self._checksum(name)) if wanted else None

    def _checksum(self, name):
        checksum, size = 0, self._sizes[name]
        for first in range(0, size, PART):
            (part,) = self._store.read_parts([(name, first, min(first + PART, size))])
            checksum = zlib.crc32(part, checksum)
        return checksum

    def state(self):
        """{name: bytes} of the files of the state."""
        there = ((name, size) for name, size in self._sizes.items() if name.startswith(STATE))
        return {name.removeprefix(STATE): size for name, size in there}

    def ranges_of_state(self, ranges):
        return self._store.read_parts([(STATE + name, *ends) for name, *ends in ranges])

    def get(self, folder):
        self._store.get(self._sizes, folder)
