"""Small source folders, and the config fields that say where the prepared data is."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from configs.lidc_mask2ct import get_config


def write_slice(source, split, label, patient, index, size=24, mask="lung"):
    """Writes one CT slice and its mask; returns the paths of both."""
    rng = np.random.default_rng([index, *patient.encode()])
    folder = source / split / label
    folder.mkdir(parents=True, exist_ok=True)
    ct = folder / f"{patient}_slice_{index:04d}.png"
    Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(ct)
    npy = folder / f"{patient}_{mask}_mask_{index:04d}.npy"
    np.save(npy, rng.integers(0, 3 if mask == "combined" else 2, (size, size), np.uint8))
    return ct, npy


@pytest.fixture
def source(tmp_path):
    """Three training patients of 3 clean and 2 nodule slices each, and one test patient of 3."""
    source = tmp_path / "source"
    for patient in (1, 2, 3):
        for index in range(3):
            write_slice(source, "train", "clean", f"LIDC-IDRI-{patient:04d}", index)
        for index in (7, 8):
            write_slice(
                source, "train", "with_nodules", f"LIDC-IDRI-{patient:04d}", index, mask="combined"
            )
    for index in (4, 5, 6):
        write_slice(source, "test", "clean", "LIDC-IDRI-0009", index)
    return source


def data_config(data_dir, **fields):
    """config.data for small images."""
    return ConfigDict(
        {
            "dataset": "lidc_masks",
            "data_dir": str(data_dir),
            "sample": "",
            "image_size": 16,
            "stored_size": 16,
            "mask_resize": "nearest",
            "mask_values": (0, 1, 2),
            "patient_pattern": get_config().data.patient_pattern,
            "test_patients": "",
            "validation_patients": "",
            "folds": 0,
            "fold": 0,
            "validation_fraction": 0.3,
            "batch_size": 4,
            "accumulate": 1,
            "seed": 0,
            "cache": "none",
            "flip": False,
            "load_size": 0,
            "patch_size": 0,
            "depth": 0,
            "empty_slices": 1.0,
            "repeat": 1,
            "on_error": "raise",
            "context": 0,
            "source": "mask",
            "target": "image",
            "source_channels": 1,
            "source_type": "uint8",
            "target_type": "uint8",
            **fields,
        }
    )


def read_split(directory, split):
    """The examples of a prepared split, as TFDS decodes them, with str for bytes."""
    return [
        {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in example.items()
        }
        for example in tfds.builder_from_directory(directory).as_data_source(split)
    ]


OPTIONS = {"stored_size": 16, "mask_resize": "nearest", "validation_fraction": 0.3}
