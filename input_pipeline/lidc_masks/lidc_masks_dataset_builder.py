"""TFDS builder of LIDC-IDRI CT slices with lung and nodule masks.

Source folder, of any size:

    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_slice_0042.png           CT, 8-bit grey
    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_combined_mask_0042.npy   0, lung 1, nodule 2
    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_lung_mask_0042.npy       0, lung 1

Of a slice with both masks, the combined one is used. Masks may be .png as well. A third folder,
val/, is the validation split; without it whole patients of train/ are held out. Hidden files, and
whatever else lies beside these folders, are passed over.

Slices become image_size x image_size: the CT bilinearly, the mask by `mask_resize`. A slice that
is not square is stretched, as the published system does.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import sys
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from input_pipeline.patients import split_by_patient
from input_pipeline.safe_io import DataError, read_grey_png, read_mask
from input_pipeline.slices import resize, stored_mask
from input_pipeline.tf_cpu import tf

import tensorflow_datasets as tfds  # isort: skip  after tf_cpu, which keeps it off the GPU

CLASSES = ("with_nodules", "clean")
SHARD_SIZE = 1024  # a killed preparation loses at most this many
SALT = "lidc_masks"
NAME = re.compile(
    r"(?P<patient>\w[\w.-]*?)_((?P<slice>slice)|(?P<mask>combined|lung)_mask)_(?P<index>\d+)"
    r"\.(?(mask)(npy|png)|png)"
)


class Slice(NamedTuple):
    patient: str
    slice_index: int
    label: str  # one of CLASSES
    file_name: str  # of the CT, relative to the source folder
    mask_name: str


class Found(NamedTuple):
    splits: dict  # "train", "validation", "test": list of Slice, by patient and slice
    fingerprint: str
    validation: str  # where it comes from


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(tfds.core.BuilderConfig):
    """What the prepared data depends on. The name follows from it, so that nothing collides."""

    name: str = ""
    image_size: int = 128
    mask_resize: str = "nearest"  # classes stay classes; "bilinear", antialiased, as published
    mask_values: tuple = (0, 1, 2)  # on disk, of class 0, 1, ...
    validation_fraction: float = 0.1  # of the patients of train/, where there is no val/

    def __post_init__(self):
        values = self.mask_values = tuple(self.mask_values)
        if not 1 <= self.image_size <= 8192:
            raise DataError(f"image_size is {self.image_size}: use 1 to 8192")
        if self.mask_resize not in ("nearest", "bilinear"):
            raise DataError(f'mask_resize is "{self.mask_resize}": use nearest or bilinear')
        if len(set(values)) != len(values) or len(values) < 2 or not set(values) <= set(range(256)):
            raise DataError(f"mask_values is {values}: use two or more distinct values in 0 to 255")
        if not 0 < self.validation_fraction < 1:
            raise DataError(f"validation_fraction is {self.validation_fraction}: use 0 to 1")
        self.name = (
            f"{self.image_size}_{self.mask_resize}_{'-'.join(map(str, values))}"
            f"_{self.validation_fraction:g}"
        )

    @property
    def options(self):
        names = ("image_size", "mask_resize", "mask_values", "validation_fraction")
        return {name: getattr(self, name) for name in names}


class Builder(tfds.core.ShardBasedBuilder):
    """DatasetBuilder of lidc_masks; `input_pipeline.prepare` runs it."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the source folder, with train/ and test/."

    def _info(self):
        def grey(doc):
            shape = (self.builder_config.image_size,) * 2 + (1,)
            return tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES, doc=doc
            )

        return tfds.core.DatasetInfo(
            builder=self,
            description="CT slices of the chest with masks of lungs and nodules.",
            features=tfds.features.FeaturesDict(
                {
                    "image": grey("CT"),
                    "mask": grey("254 * class / (classes - 1), so x / 127 - 1 is in [-1, 1]"),
                    "patient": tfds.features.Text(),
                    "slice_index": np.int64,
                    "class": tfds.features.Text(),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _download_and_prepare(self, dl_manager, download_config=None):
        self._pool = futures.ThreadPoolExecutor(os.cpu_count())
        try:
            with tqdm(unit="slices", disable=None) as self._progress:
                super()._download_and_prepare(dl_manager, download_config)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _shard_iterators_per_split(self, dl_manager):
        source = Path(dl_manager.manual_dir)
        found = find_slices(source, self.builder_config.validation_fraction)
        record = _summary(source, found, self.builder_config.options)
        _report(record)
        # TFDS moves this directory into place when all is done.
        (self.data_path / "preparation.json").write_text(json.dumps(record, indent=1))
        self._adopt_finished_shards(record)
        self._progress.reset(total=sum(map(len, found.splits.values())))

        shards = {}
        for split, slices in found.splits.items():
            with (self.data_path / f"examples_{split}.csv").open("w") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["patient", "slice_index", "class", "file_name"])
                writer.writerows(item[:4] for item in slices)
            parts = [slices[i : i + SHARD_SIZE] for i in range(0, len(slices), SHARD_SIZE)]
            template = tfds.core.ShardedFileTemplate(
                self.data_path, dataset_name=self.name, split=split, filetype_suffix="array_record"
            )
            shards[split] = [
                functools.partial(
                    self._examples,
                    source,
                    part,
                    template.sharded_filepath(shard_index=i, num_shards=len(parts)),
                )
                for i, part in enumerate(parts)
            ]
        return shards

    def _examples(self, source, slices, shard):
        if shard.exists():  # _Writer leaves it as it is: TFDS only counts its examples
            yield from ((item.file_name, None) for item in slices)
            self._progress.update(len(slices))
            return
        examples = self._pool.map(functools.partial(self._read, source), slices)
        for item, example in zip(slices, examples, strict=True):
            yield item.file_name, example
            self._progress.update()

    def _read(self, source, item):
        config = self.builder_config
        image = read_grey_png(source / item.file_name)
        mask_path = source / item.mask_name
        mask = read_mask(mask_path)
        if image.shape != mask.shape:
            raise DataError(
                f"{source / item.file_name} has the shape {image.shape} but its mask {mask_path} "
                f"has {mask.shape}: they must cover the same pixels"
            )
        return {
            "image": resize(image, config.image_size, "bilinear")[..., None],
            "mask": stored_mask(
                mask, mask_path, config.mask_values, config.image_size, config.mask_resize
            ),
            "patient": item.patient,
            "slice_index": item.slice_index,
            "class": item.label,
            "file_name": item.file_name,
        }

    def _adopt_finished_shards(self, record):
        """Moves here what a killed preparation of the same source finished, and clears the rest.

        TFDS gives every attempt a new directory. The caller's lock keeps others from running.
        """
        for old in self.data_path.parent.glob("incomplete.*"):
            if old.name == self.data_path.name:
                continue
            summary = old / "preparation.json"
            if summary.exists() and summary.read_text() == json.dumps(record, indent=1):
                for shard in old.glob(f"{self.name}-*"):
                    shard.rename(self.data_path / shard.name)
            old.rmtree()

    def _example_writer(self):
        return _Writer(tfds.core.FileFormat.ARRAY_RECORD)

    def _log_download_bytes(self):
        """Nothing: TFDS would announce a download of unknown size."""

    _log_download_done = _log_download_bytes


class _Writer(tfds.core.ExampleWriter):
    """Names a shard when it is complete, so that after a kill every named shard is.

    Uncompressed: a third of the size would cost half of the reading speed. The same source gives
    the same bytes, which TFDS's own serialization does not: the order of its features varies.
    """

    def write(self, path, examples):
        if path.exists():
            return
        part = path.with_name(f"part.{path.name}")
        writer = ArrayRecordWriter(os.fspath(part), "group_size:1,uncompressed")
        try:
            for _, serialized in examples:
                example = tf.train.Example.FromString(serialized)
                writer.write(example.SerializeToString(deterministic=True))
            writer.close()
        except RuntimeError as error:  # of ArrayRecord: the disk is full, say
            raise OSError(f"{path.parent} cannot be written to: {error}") from error
        part.rename(path)


def find_slices(source, validation_fraction):
    """Lists and pairs the files of a source folder, and splits them. Decodes nothing.

    The fingerprint is of names, sizes and modification times. Contents would be too slow for 1e5
    files, and sizes alone would miss a corrected mask, since all .npy masks are of one size.

    Returns:
        Found.

    Raises:
        DataError: a file is misnamed, unpaired, empty or a link to elsewhere; a patient is in two
            splits; or a split is empty.
    """
    root = Path(source).resolve()
    digest = hashlib.sha256()
    splits = {}
    for split in ("train", "val", "test"):
        if split == "val" and not (root / split).exists():
            continue
        if not (root / split).is_dir():
            raise DataError(f"{root / split} is not a folder: --source must hold train/ and test/")
        _check_inside(root / split, root)
        splits[split] = []
        for folder in _entries(root / split, root):
            if folder.name not in CLASSES or not folder.is_dir():
                raise DataError(f"{folder.path} is none of {'/, '.join(CLASSES)}/: move it away")
            splits[split] += _pairs(folder, root, digest)
        if not splits[split]:
            raise DataError(f"{root / split} holds no slices: add some")
        splits[split].sort(key=lambda item: item[:4])
        for one, other in itertools.pairwise(splits[split]):
            if one[:2] == other[:2]:
                raise DataError(
                    f"{root / other.file_name} and {root / one.file_name} are the same slice: "
                    "remove one"
                )
    for one, other in itertools.combinations(splits, 2):
        # Whatever the case: P1 and p1 are one patient more often than they are two.
        patients = {item.patient.casefold() for item in splits[one]}
        for item in splits[other]:
            if item.patient.casefold() in patients:
                raise DataError(
                    f"{root / item.file_name} is of patient {item.patient}, who is in {one}/ too: "
                    "keep each patient in one split"
                )
    validation = "val/"
    if "val" not in splits:
        splits["train"], splits["val"], by_patient = split_by_patient(
            splits["train"], validation_fraction, SALT
        )
        validation = "patients of train/" if by_patient else "slices of the one patient of train/"
    splits = {"train": splits["train"], "validation": splits["val"], "test": splits["test"]}
    return Found(splits, digest.hexdigest(), validation)


def _entries(folder, root):
    """The os.DirEntry of what is in a folder, sorted by name, without hidden ones."""
    with os.scandir(folder) as entries:
        entries = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.is_symlink():
            _check_inside(Path(entry.path), root)
        yield entry


def _check_inside(path, root):
    if not path.resolve().is_relative_to(root):
        raise DataError(f"{path} is a link to outside of {root}: put a copy there instead")


def _pairs(folder, root, digest):
    """The slices of one folder, each with its mask. Adds the files to the digest."""
    slices, masks = {}, {"lung": {}, "combined": {}}
    for entry in _entries(folder.path, root):
        match = NAME.fullmatch(entry.name)
        if not match:
            raise DataError(
                f"{entry.path} does not follow PATIENT_slice_0001.png, PATIENT_lung_mask_0001.npy "
                "or PATIENT_combined_mask_0001.npy: rename or remove it"
            )
        name, stat = os.path.relpath(entry.path, root), entry.stat()
        if not stat.st_size:
            raise DataError(f"{entry.path} is empty: restore or remove it")
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        table = masks[match["mask"]] if match["mask"] else slices
        key = match["patient"], int(match["index"])
        if key in table:
            raise DataError(f"{entry.path} and {root / table[key]} are the same: remove one")
        table[key] = name
    masks = masks["lung"] | masks["combined"]
    unpaired = slices.keys() ^ masks.keys()
    if unpaired:
        key = min(unpaired)
        missing = "mask" if key in slices else "slice"
        path = root / (slices | masks)[key]
        raise DataError(f"{path} has no {missing} beside it: add the {missing} or remove the file")
    return [
        Slice(patient, index, folder.name, slices[patient, index], masks[patient, index])
        for patient, index in slices
    ]


def _summary(source, found, options):
    return {
        "source": str(source.resolve()),
        "fingerprint": found.fingerprint,
        "options": options,
        "validation": found.validation,
        "salt": SALT,
        "shard_size": SHARD_SIZE,
        "splits": {
            split: {
                "examples": len(slices),
                "patients": len({item.patient for item in slices}),
                "classes": collections.Counter(item.label for item in slices),
            }
            for split, slices in found.splits.items()
        },
    }


def _report(record):
    print(f"{record['source']}, validation from {record['validation']}:")
    for split, counts in record["splits"].items():
        classes = ", ".join(f"{n} {label}" for label, n in sorted(counts["classes"].items()))
        found = f"{counts['examples']} slices of {counts['patients']} patients"
        print(f"  {split}: {found} ({classes})")
    if record["validation"].startswith("slices"):
        print(
            "warning: train/ has one patient, so validation shares it: good for choosing a "
            "checkpoint, no evidence of generalisation"
        )
    sys.stdout.flush()
