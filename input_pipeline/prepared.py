"""A prepared data set on disk: where it is, and what its examples are.

Throughout, `data` is config.data. A config may come with a workdir from anywhere, so only
`ensure_prepared` and `fetch` talk to a store or prepare anything: for a config or a folder that the
user has named.
"""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from input_pipeline import prepared_files, streamed
from input_pipeline.prepare import is_prepared, options_of, prepare, prepared_directory
from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores import storage

SPLITS = ("train", "validation", "test")
SAMPLES = Path(__file__).parent / "samples"
BLOCK = 2**12  # bytes of a shard that `fingerprint` reads at a time
BLOCKS, FEWEST = 2**12, 16  # of them in a split, and in a shard if there are many


def ensure_prepared(data):
    """Returns the directory of the prepared data set; prepares data.sample there if need be.

    A data set in a store is first copied to this machine, and the directory is the copy; or its
    descriptions are, if its records stay there: see `streamed.describe`.

    All hosts may call it at once. On a shared disk one prepares and the others wait; otherwise each
    prepares its own.

    Raises:
        DataError: it is not prepared and has no sample, with the command to run; or there is no
            such sample.
    """
    directory, options = _directory_of(data)
    if found := _fetched(data, directory):
        return found
    if not data.sample:
        raise _missing(data, directory)
    messages.info(f'preparing the embedded sample "{data.sample}"')
    return prepare(data.dataset, SAMPLES / data.sample, data.data_dir, wait=True, **options)


def fetch(data):
    """Copies the prepared data set, or its descriptions, to this machine if it is in a store.

    Raises:
        DataError: it is not there, or not in the folder that data.data_dir names.
    """
    directory, _ = _directory_of(data)
    if not _fetched(data, directory):
        raise _missing(data, directory)


def _fetched(data, directory):
    """The folder to read the prepared data set from, or None if it is not prepared."""
    if folder := streamed.describe(data, directory):
        return folder
    return directory if is_prepared(data.data_dir, directory) else None


def find(data):
    """Returns the directory of the prepared data set, or of its copy, if it is on this machine.

    Raises:
        DataError: it is not, with what to do.
    """
    directory, _ = _directory_of(data)
    if folder := streamed.folder_of(data, directory):
        return folder
    if not directory.is_dir():
        remote = storage.is_remote(data.data_dir)
        raise _missing(data, directory, "is not on this machine" if remote else "does not exist")
    return directory


def _directory_of(data):
    """-> (where the prepared data set is on this machine, its options)."""
    if data.sample and not (
        re.fullmatch(r"\w+", data.sample, re.ASCII) and (SAMPLES / data.sample).is_dir()
    ):
        raise DataError(
            f"config.data.sample: there is no embedded sample {data.sample!a}: leave it empty, and "
            "prepare a folder of yours with launch.prepare --source=DIR"
        )
    options = options_of(data)
    return prepared_directory(data.dataset, data.data_dir, **options), options


def _missing(data, directory, what="does not exist"):
    return DataError(
        f"{storage.url_of(data.data_dir, directory)} {what}: run python -m launch.prepare "
        "--source=DIR with the same --config and --config.data.…, where DIR holds the source "
        "files; if a trained run's data are elsewhere, name that folder or store with --data"
    )


def examples(data, split):
    """A list of prepared_files.Example, in record order: entry i describes the slice of index i."""
    check_split(split)
    return _read_tables(find(data), split)


def fingerprint(data):
    """Digests of the prepared data, equal for copies and for preparations of the same files.

    {"arrays": of their names, shapes and types; a split's name: of its tables and records}. A
    preparation's record does not tell: it has the times of the source files, which copies change.
    Of a large data set, blocks spread over all shards stand for the whole.

    Raises:
        DataError: it is damaged.
    """
    directory = find(data)
    arrays = repr(sorted(prepared_files.read_arrays(directory).items()))
    found = {"arrays": hashlib.sha256(arrays.encode())}
    for split in SPLITS:
        rows, shards = _read_tables(directory, split), prepared_files.read_shards(directory, split)
        found[f"{split} split"] = digest = hashlib.sha256(repr((rows, len(shards))).encode())
        for shard, _ in shards:
            _add_records(digest, directory, shard, max(BLOCKS // len(shards), FEWEST))
    return {name: digest.hexdigest()[:12] for name, digest in found.items()}


def _add_records(digest, directory, shard, blocks):
    """Adds a shard's size and content to a digest, or so many blocks of it, its end among them."""

    def choose(size):
        if size <= blocks * BLOCK:
            return [(0, size)]
        starts = np.linspace(0, size - BLOCK, blocks).astype(int).tolist()
        return [(start, start + BLOCK) for start in starts]

    try:
        size, parts = streamed.read_parts(directory, shard, choose)
        digest.update(f"{size}\0".encode() + b"".join(parts))
    except OSError as error:
        raise DataError(
            f"{shard} cannot be read ({error.strerror}): delete the folder and prepare it again"
        ) from None


def spacing_mm(data, table):
    """Median spacing of a list of Example between slices, rows and columns at data.image_size."""
    between, rows, columns = np.median([example.spacing_mm for example in table], axis=0).tolist()
    factor = data.stored_size / data.image_size
    return between, rows * factor, columns * factor


@functools.lru_cache(maxsize=2 * len(SPLITS))
def _read_tables(directory, split):
    table = []
    for shard, length in prepared_files.read_shards(directory, split):
        table += prepared_files.read_table(f"{shard}.csv", length)
    return table


def check_split(split):
    """Raises DataError if there is no such split."""
    if split not in SPLITS:
        raise DataError(f'there is no split "{split}": use one of {", ".join(SPLITS)}')
