"""What launch.predict shows a generator is what evaluation shows it, of the same files."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import liver, mri2ct, xray_lungs
from input_pipeline import pipeline, prepared
from jax_pix2pix.inference import xrays, synthetic_ct, ct_volumes
from jax_pix2pix.inference.mask_model import MaskModel

SAMPLES = prepared.SAMPLES


def _data(config, data_dir, **fields):
    # To a dict, as image_size and stored_size may be one value by reference.
    return ConfigDict(config.data.to_dict() | {"data_dir": str(data_dir), "batch_size": 8} | fields)


def _evaluated(data):
    """{(file name, slice): image} of all splits."""
    found = {}
    for split in prepared.SPLITS:
        examples = prepared.examples(data, split)
        for batch in pipeline.eval_batches(data, split):
            for index, image in zip(batch["index"], batch["source"], strict=True):
                if index >= 0:
                    example = examples[index]
                    found[example.file_name, example.slice_index] = image
    return found


def _shown(predict, data, source, output):
    """All that a generator is shown, in the order of the files and their slices."""
    shown = []

    def probabilities(stored):
        shown.extend(stored)
        return np.zeros(stored.shape, np.float32), np.zeros(stored.shape[:-1], np.float32)

    model = MaskModel(probabilities, classes=1, mc_dropout=0, threshold=0.5, components=0)
    predict(data, model, source, output)
    return shown


def _agree(shown, evaluated):
    """Up to one in some, which lie half-way between integers."""
    differences = []
    for one, other in zip(shown, evaluated, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        differences.append(np.abs(one.astype(int) - other))
    assert np.max(differences) <= 1 and np.mean(differences) < 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_xrays(tmp_path, channels):
    fields = {"stored_size": 96, "image_size": 64, "source_channels": channels}
    data = _data(xray_lungs.get_config("quickstart"), tmp_path / "data", **fields)
    evaluated = _evaluated(data)
    source = SAMPLES / data.sample
    shown = _shown(xrays.predict, data, source, tmp_path / "out")
    # Files sorted by name, as predict reads them.
    _agree(shown, [evaluated[key] for key in sorted(evaluated)])


@pytest.mark.parametrize("size", [48, 40])
def test_volumes(tmp_path, size):
    fields = {"stored_size": 48, "image_size": size}
    data = _data(liver.get_config("quickstart"), tmp_path / "data", **fields)
    evaluated = _evaluated(data)
    source = SAMPLES / data.sample / "volume-0.nii.gz"
    shown = _shown(ct_volumes.predict, data, source, tmp_path / "out")
    # Splits of a single volume leave slices out between them.
    _agree([shown[i] for _, i in sorted(evaluated)], [evaluated[key] for key in sorted(evaluated)])
    assert len(evaluated) > 30


@pytest.mark.parametrize("size", [48, 40])
def test_mr_volumes(tmp_path, size):
    fields = {"stored_size": 48, "image_size": size}
    data = _data(mri2ct.get_config("quickstart"), tmp_path / "data", **fields)
    evaluated = _evaluated(data)
    (mr,) = (SAMPLES / data.sample).rglob("mr.nii.gz")
    stored, *_ = synthetic_ct.prepared(str(mr), str(mr.with_name("mask.nii.gz")), data)
    _agree([stored[i] for _, i in sorted(evaluated)], [evaluated[key] for key in sorted(evaluated)])
    assert len(evaluated) > 50 and stored.max() > 60_000
