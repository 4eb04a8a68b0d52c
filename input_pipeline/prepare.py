"""Preparation of data sets: from a folder of files to array records with random access."""

import contextlib
import errno
import fcntl
import json
from pathlib import Path

from absl import logging

from input_pipeline import prepared_files
from input_pipeline.datasets.lidc_masks import lidc_masks_dataset_builder as lidc_masks
from input_pipeline.datasets.liver_ct import liver_ct_dataset_builder as liver_ct
from input_pipeline.datasets.luna16 import luna16_dataset_builder as luna16
from input_pipeline.datasets.mri_ct import mri_ct_dataset_builder as mri_ct
from input_pipeline.datasets.xray_lungs import xray_lungs_dataset_builder as xray_lungs
from input_pipeline.preparation.builder import LISTS
from input_pipeline.preparation.patient_names import check_names
from input_pipeline.preparation.patients import joined, listed
from input_pipeline.preparation.pseudonyms import Pseudonyms, TrueNames
from jax_pix2pix.errors import DataError
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.runs.workdir_files import RECORD
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.paths import expanded

import tensorflow_datasets as tfds  # isort: skip  after the builder, which keeps it off the GPU

# Modules with Config, find and Builder; see builder.py.
DATASETS = {
    "lidc_masks": lidc_masks,
    "liver_ct": liver_ct,
    "luna16": luna16,
    "mri_ct": mri_ct,
    "xray_lungs": xray_lungs,
}


def options_of(data) -> dict:
    """The fields of config.data that the prepared data depends on: its data set's options.

    Raises:
        DataError: there is no such data set, or a field is missing.
    """
    names = _module(data.dataset).Config.option_names()
    for name in names:
        if name not in data:
            raise DataError(f"config.data.{name} is missing: the data set {data.dataset} needs it")
    return {name: data[name] for name in names}


def prepared_directory(dataset, data_dir, **options):
    """Where `prepare` puts the data set with these options.

    Raises:
        DataError: there is no such data set, or an option's value is invalid.
    """
    module = _module(dataset)
    version = str(module.Builder.VERSION)
    return storage.local_folder(data_dir) / dataset / module.Config(**options).name / version


def is_prepared(data_dir, directory):
    """Whether `directory`, from prepared_directory, is prepared; copies it there from a store.

    Raises:
        UnsafeFileError: it is, or holds, a link, a pipe or a device.
    """
    found = storage.is_prepared(data_dir, directory, RECORD, prepared_files.SPLITS)
    if found:
        safe_files.check_tree(directory, storage.local_folder(data_dir))
    return found


def prepare(dataset, source, data_dir, wait=False, pseudonyms=None, **options):
    """Prepares a data set, resuming a preparation of the same source that was killed.

    Args:
        dataset: key of DATASETS.
        source: folder, laid out as the data set's builder describes.
        data_dir: folder for prepared data sets, made if missing, or in a store; see storage.py.
        wait: whether to wait for another preparation of the same data, instead of raising.
        pseudonyms: path of a file with a key, made if missing, by which names of patients and files
            are replaced; see preparation/pseudonyms.py. None keeps the names.
        **options: fields of the data set's Config.

    Returns:
        Path of the prepared data set, or of its local copy if it is in a store.

    Raises:
        DataError: the source is refused, `data_dir` holds the data set from another source, or
            another preparation is running.
        OSError: the disk is full or not writable, or a file or folder below data_dir is a link.
    """
    module = _module(dataset)
    config = module.Config(**options)
    source, data_dir = Path(expanded(source)), expanded(data_dir)
    if not source.is_dir() or not any(source.iterdir()):
        raise DataError(f"{source} is not a folder, or is empty: --source must hold the data")
    own = storage.local_folder(data_dir)
    names = Pseudonyms(pseudonyms, source, own) if pseudonyms else TrueNames()
    true_config = module.Config(**options | _chosen(config, names.true_name))
    options |= _chosen(true_config, names.patient)  # paths and records have these
    config = module.Config(**options)
    directory = prepared_directory(dataset, data_dir, **options)
    with _lock(directory.parent / "lock", own, wait):
        found = module.find(source, true_config)
        found.notes.extend(check_names(found.splits, found.names, source))
        told = found.account.line(names.source(source) if names.key_id else None)
        is_prepared(data_dir, directory)
        if directory.exists():  # perhaps only here, if the last upload to a store was cut short
            prepared = _preparation(directory)
            if names.key_id != prepared["pseudonyms"]:
                raise DataError(
                    f"{directory} was prepared "
                    + ("with other pseudonyms" if prepared["pseudonyms"] else "without pseudonyms")
                    + ": name the same file, delete the folder, or set another config.data.data_dir"
                )
            if names.fingerprint(found.fingerprint) != prepared["fingerprint"]:
                raise DataError(
                    f"{directory} was prepared from {prepared['source']}, and {source} is another "
                    "source or changed since: delete the former, or set another "
                    "config.data.data_dir"
                )
            storage.publish(data_dir, directory, prepared_files.SPLITS)
            for line in (*prepared["warnings"], told):
                messages.info(line)
            messages.info(f"already prepared: {storage.url_of(data_dir, directory)}")
            return directory
        with _quiet_tfds():
            builder = module.Builder(
                source,
                found,
                names,
                data_dir=own,
                config=config,
                file_format="array_record",
            )
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
        storage.publish(data_dir, directory, prepared_files.SPLITS)
    for line in (*builder.warnings, told):
        messages.info(line)
    messages.info(f"prepared: {storage.url_of(data_dir, directory)}")
    chosen = _chosen(config, str)
    if names.key_id and any(chosen.values()):
        messages.info(
            "train with "
            + " ".join(f"--config.data.{field}={text}" for field, text in chosen.items() if text)
        )
    return directory


def _chosen(config, name):
    """The fields of a Config that name patients, with name(patient) for each."""
    return {
        field: joined(sorted(map(name, listed(getattr(config, field), field)))) for field in LISTS
    }


def _preparation(directory):
    def parse(text):
        record = json.loads(text)
        names = {key: record[key] for key in ("source", "fingerprint")}
        warnings = [note for note in record["notes"] if note.startswith("warning: ")]
        warnings += map(str, record.get("warnings", ()))
        return names | {"pseudonyms": record.get("pseudonyms"), "warnings": warnings}

    return prepared_files.read(directory / RECORD, "a preparation's record", parse)


def _module(dataset):
    if dataset not in DATASETS:
        raise DataError(f'there is no data set "{dataset}": use one of {", ".join(DATASETS)}')
    return DATASETS[dataset]


@contextlib.contextmanager
def _lock(path, data_dir, wait):
    """Holds a lock file; the operating system frees it when the process ends, however it ends."""
    with safe_files.open_lock(path, data_dir) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataError(f"{path} is locked: another preparation is running, wait") from None
            raise
        yield


@contextlib.contextmanager
def _quiet_tfds():
    """Keeps TFDS from logging its progress and a warning about configs that it does not list."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
