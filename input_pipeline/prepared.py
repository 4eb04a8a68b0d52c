"""A prepared data set on disk: where it is, and what its examples are.

Throughout, `data` is config.data. Every function prepares the embedded sample named `data.sample`
first where it is not prepared yet; on many hosts the others wait for the one that does.
"""

import functools
from pathlib import Path

import numpy as np

from input_pipeline import prepared_files, storage
from input_pipeline.prepare import is_prepared, options_of, prepare, prepared_directory
from jax_pix2pix.errors import DataError

SPLITS = ("train", "validation", "test")
SAMPLES = Path(__file__).parent / "samples"


def ensure_prepared(data):
    """Returns the directory of the prepared data set; prepares data.sample there if need be.

    Of a store it is the copy here, made first if need be.

    Every host may call it at once: one prepares and the others wait, be their disks shared or not.

    Raises:
        DataError: not prepared and no sample, with the command to run; or no such sample.
    """
    if not (SAMPLES / data.sample).is_dir():
        raise DataError(f'config.data.sample: there is no "{data.sample}" in {SAMPLES}')
    options = options_of(data)
    directory = prepared_directory(data.dataset, data.data_dir, **options)
    if is_prepared(data.data_dir, directory):
        return directory
    if not data.sample:
        raise DataError(
            f"{storage.url_of(data.data_dir, directory)} does not exist: run python -m "
            "launch.prepare --source=DIR with the same --config and --config.data.…, where DIR "
            "holds the source files"
        )
    print(f'preparing the embedded sample "{data.sample}"', flush=True)
    return prepare(data.dataset, SAMPLES / data.sample, data.data_dir, wait=True, **options)


def examples(data, split):
    """A list of prepared_files.Example, in record order: entry i is of the slice with index i."""
    check_split(split)
    return _read_tables(ensure_prepared(data), split)


def spacing_mm(data, table):
    """Between slices, rows and columns at data.image_size: the median over a list of Example."""
    between, rows, columns = np.median([example.spacing_mm for example in table], axis=0).tolist()
    factor = data.stored_size / data.image_size
    return between, rows * factor, columns * factor


@functools.lru_cache(maxsize=2 * len(SPLITS))
def _read_tables(directory, split):
    table = []
    for shard, length in prepared_files.read_shards(directory, split):
        path = f"{shard}.csv"
        rows = prepared_files.read_table(path)
        if len(rows) != length:
            raise DataError(
                f"{path} has {len(rows)} rows and its shard {length} records: delete the folder "
                "and prepare it again"
            )
        table += rows
    return table


def check_split(split):
    """Raises DataError where there is no such split."""
    if split not in SPLITS:
        raise DataError(f'there is no split "{split}": use one of {", ".join(SPLITS)}')
