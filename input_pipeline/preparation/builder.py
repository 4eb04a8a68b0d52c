"""The base of the TFDS builders of all data sets: from groups of source files to records.

A data set's module gives

    Config                       its options, a subclass of the `Config` here
    find(source, config)         lists the source without decoding it -> Found
    Builder                      a subclass of the `Builder` here, with `read`

and `input_pipeline.prepare` brings them together. An item of Found is a named tuple with at least

    patient, slice_index         its patient, and its place in the volume
    label                        its class, or "" where only decoding can tell
    file_name                    relative to the source folder

Consecutive items of one file are a group: they are decoded together, on one thread, and stored in
one shard. Each shard has a table beside it, <shard>.csv, with a row per record.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import os
import re
import types
from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.preparation import pairs, patient_names
from input_pipeline.preparation.checks import Checks, places_of
from input_pipeline.preparation.patient_names import Names
from input_pipeline.preparation.patients import joined, listed
from input_pipeline.preparation.shards import Writer
from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.workdir_files import RECORD
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.accounts import TABLE, Account
from jax_pix2pix.safety.patterns import compiled

import tensorflow_datasets as tfds  # isort: skip  after shards, which keep it off the GPU

SHARD_SIZE = 1024  # a killed preparation loses at most this many, plus the rest of a volume
THREADS = min(16, os.cpu_count() or 1)
LISTS = ("test_patients", "validation_patients")  # fields that name patients


class Pixels(NamedTuple):
    """An array of a record: [S, S, channels], S being stored_size."""

    dtype: type
    doc: str
    channels: int = 1


class Found(NamedTuple):
    splits: dict  # "train", "validation", "test": list of items, in the order of the records
    fingerprint: str
    # Lines for the user and for preparation.json: where splits come from, ... A line that names
    # patients is a function of (patient -> the name to show) that gives it.
    notes: list
    account: Account  # of all files below the source folder
    names: Names | None = None  # if patients are known by names that others chose

    def told(self, name=str):
        """The notes as lines; name: patient -> the name to show."""
        return [note if isinstance(note, str) else note(name) for note in self.notes]


def note_oblique(tilts):
    """The note of volumes that lie obliquely; tilts: a list of (patient, degrees)."""
    return lambda name: (
        "oblique, stored on the nearest axes: "
        + ", ".join(f"{name(patient)} ({degrees:.0f} degrees)" for patient, degrees in tilts)
    )


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
    """The options that prepared data depends on. They make up its name, so no two collide."""

    name: str = ""
    stored_size: int = 128  # height and width on disk, in pixels
    test_patients: str = ""  # names with commas; "": whom the source, or a hash, holds out
    validation_patients: str = ""
    folds: int = 0  # into which patients fall by hash; 0: test_fraction decides
    fold: int = 0  # the one that is tested

    def __post_init__(self):
        for option, value in self.options.items():
            if isinstance(value, list):
                setattr(self, option, tuple(value))
        if not 1 <= self.stored_size <= 8192:
            raise DataError(f"stored_size is {self.stored_size}: use 1 to 8192")
        for field in LISTS:
            setattr(self, field, joined(listed(getattr(self, field), field)))
        self._check_folds()
        held = {name: self.options[name] for name in (*LISTS, "folds", "fold")}
        others = [value for name, value in self.options.items() if name not in held]
        self.name = "_".join(map(_in_a_name, others))
        if self.folds:
            self.name += f"_fold{self.fold}of{self.folds}"
        elif any(held.values()):  # names of patients belong in no path
            self.name += f"_held{hashlib.sha256(repr(held).encode()).hexdigest()[:12]}"

    def _check_folds(self):
        if self.folds == 1 or not 0 <= self.fold < max(self.folds, 1):
            raise DataError(
                f"config.data.fold={self.fold} of config.data.folds={self.folds}: use folds=0, or "
                "2 or more and a fold from 0 to below that"
            )
        if self.folds and (self.test_patients or self.validation_patients):
            raise DataError(
                f"config.data.folds={self.folds} says who is held out: leave out test_patients and "
                "validation_patients, or folds"
            )

    @classmethod
    def option_names(cls):
        """Names of the fields that are options; config.data has them under the same names."""
        inherited = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
        return [field.name for field in dataclasses.fields(cls) if field.name not in inherited]

    @property
    def options(self):
        return {name: getattr(self, name) for name in self.option_names()}

    def check_fractions(self, *names):
        for name in names:
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}: use a share between 0 and 1")

    def check_pattern(self, name):
        """Raises DataError if it is no regular expression with a group 1, the patient."""
        pattern = getattr(self, name)
        try:
            compiled(pattern)
        except ValueError as error:
            raise DataError(f"{name} {pattern:.200}: {error}") from None


def _in_a_name(value):
    """An option's value as part of a folder's name; a digest if a character is not allowed."""
    if isinstance(value, tuple):
        return "-".join(map(_in_a_name, value))
    text = str(value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"  # 1 for 1.0; of more than six digits all are needed
    return text if re.fullmatch(r"[\w.-]*", text) else hashlib.sha256(text.encode()).hexdigest()[:8]


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS builder of the items that `find` found. Subclasses define how a group is read."""

    VERSION = tfds.core.Version("2.0.0")  # of the stored format, for all data sets
    description = ""
    arrays: dict  # {name: Pixels} of a record; config.data.source and .target are two of them
    unit = "slices"  # what an example is called
    pair: pairs.Pair | None = None  # the array beside "image" that must fit it

    def __init__(self, source, found, names, **kwargs):
        """source: Path. found: Found. names: TrueNames or Pseudonyms. Others as for TFDS."""
        super().__init__(**kwargs)
        self._source = source
        self._found = found
        self._names = names
        self.warnings = []  # about pairs and pictures, lines for the user, once all is prepared

    def partners(self, item):
        """The names of the files of an item's second array, see `pair`."""
        return (item.mask_name,)

    @abstractmethod
    def read(self, source, group):
        """Decodes a group of items; called on several threads at once.

        Args:
            source: Path of the source folder.
            group: items of one file.

        Returns:
            A dict for each item: what `arrays` names; "spacing_mm", three floats: between slices,
            rows and columns of the stored grid, 0 where unknown; and "class" if only decoding
            tells it.

        Raises:
            DataError: a file cannot be used.
        """

    def _info(self):
        def feature(pixels):
            shape = (self.builder_config.stored_size,) * 2 + (pixels.channels,)
            encoding = tfds.features.Encoding.BYTES
            return tfds.features.Tensor(
                shape=shape, dtype=pixels.dtype, encoding=encoding, doc=pixels.doc
            )

        return _Info(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(
                {
                    **{name: feature(pixels) for name, pixels in self.arrays.items()},
                    "patient": tfds.features.Text(),
                    "slice_index": np.int64,
                    "class": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                    "spacing_mm": tfds.features.Tensor(
                        shape=(3,),
                        dtype=np.float32,
                        doc="between slices, rows and columns as stored; 0 where unknown",
                    ),
                }
            ),
        )

    def _make_download_manager(self, download_dir, download_config):
        """Nothing is downloaded; TFDS's own would make folders for it, which a kill would leave."""
        return types.SimpleNamespace(downloaded_size=0)

    def _download_and_prepare(self, dl_manager, download_config=None):
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        size = self.builder_config.stored_size
        self._checks = Checks(
            self._source, self._names, self.arrays, size, self.pair, self.partners
        )
        self._places = []
        try:
            with tqdm(unit=self.unit, disable=None) as self._progress:
                super()._download_and_prepare(dl_manager, download_config)
            self.warnings = self._checks.write(self.data_path, self._places)
            self._write_record(self._record | {"warnings": self.warnings})
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _shard_iterators_per_split(self, dl_manager):
        splits = self._found.splits
        record = self._record = _summary(
            self._source, self._found, self.builder_config.options, self._names
        )
        items = [item for items in splits.values() for item in items]
        self._names.save(self._source, items, [row[0] for row in self._found.account.rows()])
        _report(record, self.unit, patient_names.told(splits, examples=self._names.key_id is None))
        self._write_record(record)
        self._found.account.save(self.data_path / TABLE, self.data_path, self._names.path)
        self._adopt_finished_shards(record)
        self._progress.reset(total=sum(map(len, splits.values())))

        shards, unread = {}, []
        for split, items in splits.items():
            template = tfds.core.ShardedFileTemplate(
                self.data_path, dataset_name=self.name, split=split, filetype_suffix="array_record"
            )
            parts = _cut(items)
            shards[split] = []
            paths = [
                template.sharded_filepath(shard_index=i, num_shards=len(parts))
                for i in range(len(parts))
            ]
            self._places += places_of(split, parts, paths)
            for part, shard in zip(parts, paths, strict=True):
                shards[split].append(functools.partial(self._examples, part, shard))
                if not shard.exists():
                    unread += part
        self._results = self._read_ahead(unread)
        return shards

    def _write_record(self, record):
        # TFDS moves this directory into place when all is done.
        safe_files.write(self.data_path / RECORD, _text(record), self.data_path)

    def _read_ahead(self, groups):
        """Yields the examples of each group, in order; reads a few groups ahead, across shards."""
        waiting = collections.deque()
        for group in groups:
            waiting.append(self._pool.submit(self._read, group))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, group):
        records = self.read(self._source, group)
        self._checks.measure(group, records)
        return records

    def _examples(self, groups, shard):
        """Yields (key, example) of a shard's records. TFDS asks for one shard after the other."""
        if shard.exists():  # Writer leaves it as it is: TFDS only counts its examples
            for group in groups:
                yield from ((item.file_name, None) for item in group)
                self._progress.update(len(group))
            return
        for group in groups:
            for item, read in zip(group, next(self._results), strict=True):
                example = {
                    "patient": self._names.patient(item.patient),
                    "slice_index": item.slice_index,
                    "class": self._names.label(item.label),
                    "file_name": self._names.file(item.patient, item.file_name),
                } | read
                yield item.file_name, example
                # It is serialized by now. TFDS holds a shard's examples until it has counted them.
                example.clear()
                self._progress.update()

    def _adopt_finished_shards(self, record):
        """Takes over the shards that a killed preparation of the same source finished.

        TFDS gives every attempt a new directory; the old ones are deleted. The caller's lock keeps
        others from running.
        """
        for old in self.data_path.parent.glob("incomplete.*"):
            if old.name == self.data_path.name:
                continue
            safe_files.check_tree(old, old.parent)
            summary = old / RECORD
            if summary.exists() and _without_warnings(summary.read_text()) == _text(record):
                for file in old.glob(f"{self.name}-*"):
                    file.rename(self.data_path / file.name)
            old.rmtree()

    def _example_writer(self):
        return Writer(tfds.core.FileFormat.ARRAY_RECORD)

    def _log_download_bytes(self):
        """Does nothing: TFDS would announce a download of unknown size."""

    _log_download_done = _log_download_bytes


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self):
        """Does nothing: TFDS would make a folder for what it does not find, and leave it."""


def _groups(items):
    """Lists of consecutive items of one file."""
    return [list(group) for _, group in itertools.groupby(items, operator.attrgetter("file_name"))]


def _cut(items):
    """Cuts items into shards, lists of groups. A shard ends with the group that fills it."""
    parts, size = [[]], 0
    for group in _groups(items):
        if size >= SHARD_SIZE:
            parts.append([])
            size = 0
        parts[-1].append(group)
        size += len(group)
    return parts


def _summary(source, found, options, names):
    return {
        "source": names.source(source),
        "fingerprint": names.fingerprint(found.fingerprint),
        "pseudonyms": names.key_id,
        "options": options,
        "notes": found.told(names.patient),
        "warnings": [],  # of pairs and pictures, until all are read
        "shard_size": SHARD_SIZE,
        "splits": {
            split: {
                "examples": len(items),
                "patients": len({item.patient for item in items}),
                "classes": collections.Counter(
                    names.label(item.label) for item in items if item.label
                ),
            }
            for split, items in found.splits.items()
        },
    }


def _text(record):
    return json.dumps(record, indent=1)


def _without_warnings(text):
    """The text of a record as it was before all was read; "" of one that is damaged."""
    try:
        return _text(json.loads(text) | {"warnings": []})
    except (ValueError, TypeError, RecursionError):
        return ""


def _report(record, unit, patients):
    lines = [f"{record['source']}:", f"  {patients}"]
    for split, counts in record["splits"].items():
        classes = ", ".join(f"{n} {label}" for label, n in sorted(counts["classes"].items()))
        found = f"{counts['examples']} {unit} of {counts['patients']} patients"
        lines.append(f"  {split}: {found}{f' ({classes})' if classes else ''}")
    messages.info("\n".join(lines + [f"  {note}" for note in record["notes"]]))
