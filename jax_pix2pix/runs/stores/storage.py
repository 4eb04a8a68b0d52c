"""Object stores, gs:// and s3://: only this module talks to them. No TensorFlow.

A store has no append, no rename, no locks and no fsync, but an object is there whole or not at all.
So no folder is used in place: they are copied here, worked in, and copied back. The file that marks
the rest as whole is written last. fsspec makes the connections.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores import object_names, store_errors
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.safety.redaction import redacted, redacted_value

SCHEMES = ("gs", "s3", "file", "memory")  # the last two are for tests
ANSWER_SECONDS = 20  # for a store to say what it holds
WAIT_SECONDS = 60  # for a store that cannot be reached at first
PAUSE_SECONDS = 2  # between two tries
CONNECTIONS = 64  # at a time; s3fs has 10, gcsfs 100


class Unreachable(DataError):
    """A store does not answer or is too busy: a later try may work."""


def is_remote(path):
    """Whether it is a url.

    Raises:
        DataError: it has one slash, which would be the folder "s3:", or holds a key or password.
    """
    path = os.fspath(path)
    if re.match(r"\w+:/", path) and (shown := redacted_value(path)) != path:
        raise DataError(
            f"{shown}: a url with a key, password or token would be written to logs and "
            "config.json: give these by environment variables or the profile of the store's tools"
        )
    if re.match(r"\w+:/(?!/)", path):
        raise DataError(
            f"{path}: write {path.replace(':/', '://', 1)} for what is in a store, or ./{path} for "
            "a folder"
        )
    return "://" in path


def check_local(flag, path):
    """Raises DataError if the path of a flag that needs a local folder is a store's."""
    if path and is_remote(path):
        raise DataError(
            f"--{flag}={path}: use a local path; only --workdir and data_dir may be a store's"
        )


def cache_base():
    """The folder of all copies; below XDG_CACHE_HOME, if set. Nothing below it may be a link."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "jax_pix2pix")


def cache_folder(url):
    """Local folder for copies of what is at the url."""
    return cache_base() / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:24]


def local_folder(data_dir):
    """Where prepared data is read and written: data_dir, or the local copy of a store's."""
    return cache_folder(data_dir) if is_remote(data_dir) else Path(expanded(data_dir))


class Store:
    """The objects below a url, by their names relative to it.

    Raises:
        DataError: no such kind of store, or its package is not installed; all methods: the store
            refuses.
        Unreachable: all methods: it cannot be reached now.
    """

    def __init__(self, url):
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        if scheme not in SCHEMES:
            raise DataError(
                f"{url}: no store of the kind {scheme}:// is known; use gs://, s3:// or a folder"
            )
        try:
            self._fs = self._connection(scheme)
        except ImportError as error:
            raise DataError(
                f"{url} needs a package that is not installed ({error}): "
                "pip install -c constraints.txt -e '.[storage]'"
            ) from None
        self._root = self._fs._strip_protocol(self.url)
        self._told = -float("inf")  # when it was last said that the store is waited for

    def _connection(self, scheme):
        import fsspec  # so that runs in folders do not need it

        options: dict[str, Any] = (
            {"auto_mkdir": True} if scheme == "file" else {"use_listings_cache": False}
        )
        if scheme == "s3":
            options["config_kwargs"] = {"max_pool_connections": CONNECTIONS}
        return fsspec.filesystem(scheme, **options)

    def _path(self, name):
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _asked(self):
        """Raises errors of any store's package as one line."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(f"{self.url}: {error}: is the name right, bucket included?") from error
        except (DataError, FileExistsError):
            raise
        except Exception as error:
            reason = redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
            if store_errors.passes(error):
                raise Unreachable(
                    f"{self.url} cannot be reached now ({reason}): check address and network, or "
                    "start again later"
                ) from error
            raise DataError(
                f"{self.url} cannot be used ({reason}): check credentials, permissions and network"
            ) from error

    def names(self):
        """{name: bytes} of all objects; {} if the url has none, which is no error.

        Each name is one of a file below a folder; see `object_names`. Commands call this first. It
        waits up to WAIT_SECONDS for a store that cannot be reached.
        """
        return self._patiently(self.names_at_once)

    def _patiently(self, ask):
        """ask(), again and again for WAIT_SECONDS while the store cannot be reached."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return ask()
            except DataError as error:
                if time.monotonic() > deadline or not (
                    isinstance(error, Unreachable) or store_errors.credentials_may_come(error)
                ):
                    raise
                if self._told < deadline - WAIT_SECONDS:  # once for threads that ask together
                    self._told = time.monotonic()
                    messages.info(f"{error}; waiting up to {WAIT_SECONDS} s for it")
            time.sleep(PAUSE_SECONDS)
            type(self._fs).clear_instance_cache()  # it may have found no credentials
            self._fs = self._connection(self.url.partition("://")[0])

    def names_at_once(self):
        """The same without waiting for a store that cannot be reached."""
        answer = []

        def ask():
            try:
                with self._asked():
                    answer.append(self._fs.find(self._root, detail=True))
            except DataError as error:
                answer.append(error)

        # Packages retry for half a minute and more, even if nobody can answer.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ANSWER_SECONDS)
        if not answer:
            raise Unreachable(f"{self.url}: no answer in {ANSWER_SECONDS} s: check the network")
        if isinstance(answer[0], DataError):
            raise answer[0]
        found = {path[len(self._root) + 1 :]: x["size"] for path, x in answer[0].items()}
        return object_names.checked(self.url, found)

    def read(self, name):
        """Bytes of an object of at most safe_files.MAX_JSON; None if there is none."""
        try:
            with self._asked():
                if self._fs.info(self._path(name))["size"] > safe_files.MAX_JSON:
                    raise DataError(
                        f"{self.url}/{name} is above the limit of {safe_files.MAX_JSON} bytes: "
                        "delete it there if it is not yours"
                    )
                return self._fs.cat_file(self._path(name))
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def read_patiently(self, name):
        """`read`, which waits for the store as `names` does."""
        return self._patiently(lambda: self.read(name))

    def read_ranges(self, ranges):
        """Parts of objects, asked for together; one that ended before is shorter.

        Args:
            ranges: [(name, start, end)], the end excluded.

        Returns:
            [bytes], of the same order.
        """
        names, starts, ends = map(list, zip(*ranges, strict=True)) if ranges else ([], [], [])
        with self._asked():
            paths = list(map(self._path, names))
            return self._fs.cat_ranges(paths, starts, ends, on_error="raise")

    def read_parts(self, parts):
        """`read_ranges`, which waits for the store as `names` does.

        Raises:
            DataError: also if an object has ended before.
        """
        contents = self._patiently(lambda: self.read_ranges(parts))
        for (name, start, end), content in zip(parts, contents, strict=True):
            if len(content) != end - start:
                raise DataError(
                    f"{self.url}/{name} gave {len(content)} bytes of {end - start} from {start} "
                    "on: it changed meanwhile, or its upload broke off: start again"
                )
        return contents

    def copy(self, name, other):
        """Makes an object from another one, within the store."""
        with self._asked():
            self._fs.cp_file(self._path(name), self._path(other))

    def write(self, contents):
        """Writes objects; contents: {name: bytes}."""
        with self._asked():
            self._fs.pipe({self._path(name): content for name, content in contents.items()})

    def create(self, name, content):
        """Writes an object unless there is one. -> whether it did."""
        try:
            with self._asked():
                self._fs.pipe_file(self._path(name), content, mode="create")
            return True
        except FileExistsError:
            return False

    def replace(self, name, old, content):
        """Writes an object that still has the content `old`. -> whether it did.

        S3 itself sees to that (If-Match). Elsewhere another writer may come between.
        """
        path = self._path(name)
        try:
            with self._asked():
                tag = self._fs.info(path).get("ETag")
                if self._fs.cat_file(path) != old:
                    return False
                try:
                    self._fs.pipe_file(path, content, **({"IfMatch": tag} if tag else {}))
                except OSError as error:
                    status = store_errors.statuses(error)
                    if 412 in status:  # the precondition failed
                        return False
                    if 501 not in status:  # not implemented
                        raise
                    self._fs.pipe_file(path, content)
                return True
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise

    def get(self, sizes, folder):
        """Copies objects into a folder under their names; sizes: {name: bytes} as of `names`.

        Makes the folder if it is missing, and follows no link in it.
        """
        paths = [Path(safe_files.inside(folder, name)) for name in sizes]
        os.makedirs(folder, exist_ok=True)
        needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"{self.url}: {needed:,} bytes are to be copied to {folder}, whose disk has "
                f"{free:,} left: make room, or name another disk by XDG_CACHE_HOME or TMPDIR"
            )
        safe_files.check_tree(folder)
        for parent in {path.parent for path in paths}:
            safe_files.make_folder(parent, folder)
        with self._asked():
            self._fs.get([self._path(name) for name in sizes], list(map(os.fspath, paths)))
        for path, (name, size) in zip(paths, sizes.items(), strict=True):
            if path.stat().st_size != size:
                raise DataError(
                    f"{self.url}/{name} came as {path.stat().st_size} bytes of {size}: it changed "
                    "meanwhile, or its upload broke off: start again"
                )

    def put(self, folder, names, below=""):
        """Copies files of a folder to objects with their names, prefixed by `below`."""
        if names:
            paths = [os.path.join(folder, name) for name in names]
            with self._asked():
                self._fs.put(paths, [self._path(below + name) for name in names])

    def delete(self, names):
        for name in names:
            with self._asked(), contextlib.suppress(FileNotFoundError, KeyError):
                self._fs.rm_file(self._path(name))


_here = set()  # prepared folders that this process knows to be equal to the store's


def url_of(data_dir, directory):
    """A folder below `local_folder`, as the user knows it."""
    if not is_remote(data_dir):
        return os.fspath(directory)
    return (
        f"{data_dir.rstrip('/')}/{Path(directory).relative_to(cache_folder(data_dir)).as_posix()}"
    )


def is_prepared(data_dir, directory, first, last):
    """Whether a prepared folder exists; a store's is copied here, unless an equal copy exists.

    Args:
        directory: of the data set, below `local_folder`.
        first, last: names of the files that tell whether a copy is of the same preparation; the
            second is written to the store after all the others.
    """
    if not is_remote(data_dir):
        return directory.exists()
    if directory in _here:
        return True
    store = Store(url_of(data_dir, directory))
    sizes = store.names()
    safe_files.make_folder(directory.parent, cache_base())
    if not {first, last} <= sizes.keys():
        return False
    renew(store, sizes, directory, (first, last))
    _here.add(directory)
    return True


def renew(store, sizes, directory, marks):
    """Copies objects of a store to a folder of the cache, unless it holds the same `marks`.

    Args:
        sizes: {name: bytes} of the objects.
        marks: names of those that tell whether a copy is of the same preparation.
    """
    with safe_files.open_lock(f"{directory}.lock", cache_base()) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # other processes of this machine wait for the copy
        if not all(_holds(directory / name, store.read(name)) for name in marks):
            part = directory.with_name(f"{directory.name}.part")
            for old in (part, directory):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(old)
            store.get(sizes, part)
            part.rename(directory)


def _holds(path, content):
    if content is None:
        return False
    try:
        with safe_files.open_to_read(path, cache_base()) as file:
            return file.read(len(content) + 1) == content
    except FileNotFoundError:
        return False


def publish(data_dir, directory, last):
    """Copies a prepared folder to its store, if it has one and lacks it; the file `last` last."""
    if not is_remote(data_dir) or directory in _here:
        return
    safe_files.check_tree(directory)  # what a link leads to is not sent
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = [path.relative_to(directory).as_posix() for path in files]
    store = Store(url_of(data_dir, directory))
    store.delete([last])
    store.put(directory, [name for name in names if name != last])
    store.put(directory, [last])
    _here.add(directory)
