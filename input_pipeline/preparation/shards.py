"""Writes the shards of prepared data, and the tables beside them; reads what was just written."""

import os

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from input_pipeline.tf_cpu import tf
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.tables import csv_text

import tensorflow_datasets as tfds  # isort: skip  after tf_cpu, which keeps it off the GPU


class Writer(tfds.core.ExampleWriter):
    """Names a shard once it and its table are complete, so a kill leaves no incomplete named shard.

    Records are uncompressed: a third of the size would cost half of the reading speed. The same
    source gives the same bytes. TFDS's own serialization does not: its order of features varies.
    """

    def write(self, path, examples):
        if path.exists():
            return
        part = path.with_name(f"part.{path.name}")
        rows = []
        try:
            writer = ArrayRecordWriter(os.fspath(part), "group_size:1,uncompressed")
            for _, serialized in examples:
                example = tf.train.Example.FromString(serialized)
                writer.write(example.SerializeToString(deterministic=True))
                rows.append(_row(example.features.feature))
            writer.close()
        except RuntimeError as error:  # from ArrayRecord, if the disk is full for instance
            raise OSError(f"{path.parent} cannot be written to: {error}") from error
        columns = ["patient", "slice_index", "class", "file_name", "spacing_mm"]
        table = path.with_name(f"{path.name}.csv")
        safe_files.write(table, csv_text(columns, rows), path.parent)
        part.rename(path)


def read(path, positions, arrays, size):
    """The arrays of some records of a shard that this preparation wrote, or an earlier one of it.

    Args:
        arrays: {name: Pixels}.
        size: height and width of each.

    Returns:
        A dict for each record: {name: [S, S, channels]}.
    """
    found = []
    for record in ArrayRecordReader(os.fspath(path)).read(list(positions)):
        features = tf.train.Example.FromString(record).features.feature
        found.append(
            {
                name: np.frombuffer(
                    b"".join(features[name].bytes_list.value), pixels.dtype
                ).reshape(size, size, pixels.channels)
                for name, pixels in arrays.items()
            }
        )
    return found


def _row(feature):
    """A record's row in its shard's table."""
    names = ("patient", "class", "file_name")
    patient, label, file_name = (feature[name].bytes_list.value[0].decode() for name in names)
    # As float32 shows it: 0.7 rather than 0.699999988079071.
    spacing = " ".join(str(np.float32(x)) for x in feature["spacing_mm"].float_list.value)
    return [patient, feature["slice_index"].int64_list.value[0], label, file_name, spacing]
