"""launch.predict gives a generator the same inputs as evaluation does, for the same files."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import liver, lung_segmenter, mri2ct, xray_lungs
from input_pipeline import pipeline, prepared
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import mr_volumes, volume_file
from jax_pix2pix.imaging.volume import Geometry, Volume
from jax_pix2pix.inference.masks import CTMasks, ResizedCTMasks, XrayMasks
from jax_pix2pix.inference.synthetic_ct import SyntheticCT, prepared_planes

SAMPLES = prepared.SAMPLES


def _data(config, data_dir, **fields):
    # To a dict, as image_size and stored_size may refer to one value.
    return ConfigDict(config.data.to_dict() | {"data_dir": str(data_dir), "batch_size": 8} | fields)


def _evaluated(data):
    """{(file name, slice): image} for all splits."""
    found = {}
    prepared.ensure_prepared(data)
    for split in prepared.SPLITS:
        examples = prepared.examples(data, split)
        for batch in pipeline.eval_batches(data, split):
            for index, image in zip(batch["index"], batch["source"], strict=True):
                if index >= 0:
                    example = examples[index]
                    found[example.file_name, example.slice_index] = image
    return found


class _Watched:
    """A run that records all inputs of its network, in the order of calls."""

    def __init__(self, predictor, config):
        self.config, self.shown, self.mask_notes, self.source_notes = config, [], (), ()
        self.system = self.generator = None
        self.predictor = predictor(self)
        self.predictor.probabilities = lambda passes: self._probabilities

    def _probabilities(self, stored):
        self.shown.extend(stored)
        return np.zeros((*stored.shape[:-1], 1), np.float32), np.zeros(stored.shape[:-1])


def _shown(predictor, config, data, paths):
    config.data = data
    run = _Watched(predictor, config)
    for path in paths:
        run.predictor(str(path))
    return run.shown


def _agree(shown, evaluated):
    """Inputs are equal; a few, half-way between integers, differ by up to one."""
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
    paths = sorted((SAMPLES / data.sample / "img").iterdir())
    shown = _shown(XrayMasks, xray_lungs.get_config("quickstart"), data, paths)
    _agree(shown, [evaluated[key] for key in sorted(evaluated)])


def test_an_xray_scaled_to_one_is_refused_in_memory_too():
    config = xray_lungs.get_config("quickstart")
    predictor = _Watched(XrayMasks, config).predictor
    with pytest.raises(DataError, match=r"^the array holds .* scaled to \[0, 1\]"):
        predictor(np.eye(24, 32, dtype=np.uint8))


@pytest.mark.parametrize("size", [48, 40])
def test_volumes(tmp_path, size):
    fields = {"stored_size": 48, "image_size": size}
    data = _data(liver.get_config("quickstart"), tmp_path / "data", **fields)
    evaluated = _evaluated(data)
    source = SAMPLES / data.sample / "volume-0.nii.gz"
    shown = _shown(CTMasks, liver.get_config("quickstart"), data, [source])
    # Splits of a single volume leave out slices between them.
    _agree([shown[i] for _, i in sorted(evaluated)], [evaluated[key] for key in sorted(evaluated)])
    assert len(evaluated) > 30


def test_what_is_resampled_states_its_spacing(tmp_path):
    """As in preparation: of the source, the mask, and a grid of any kind."""
    config = mri2ct.get_config()
    config.data.resample = True
    predictor = _Watched(SyntheticCT, config).predictor
    mr = Volume(np.float32(np.arange(64).reshape(4, 4, 4)), Geometry(np.eye(4), (4, 4, 4)))
    unknown = Geometry(np.eye(4), (4, 4, 4), spacing_known=False)
    for grid in (unknown, Volume(mr.values, unknown)):
        with pytest.raises(DataError, match=r"^the grid does not say .* resampling needs that"):
            predictor(mr, grid=grid)
    mask = Volume(np.ones((4, 4, 4), np.uint8), unknown)
    with pytest.raises(DataError, match=r"^the volume does not say .* resampling needs that"):
        predictor(mr, grid=mr, mask=mask)


def test_what_a_volume_becomes_is_checked_before_it_is_made():
    """Between the file and the network's size lie cubic voxels, and on the way back each class."""
    values = np.resize(np.int16([-1000, 40, 0]), (40, 40, 40))
    volume = Volume(values, Geometry(np.diag([50.0, 50, 50, 1]), (40, 40, 40)))
    for isotropic_mm, classes, found in ((1.0, 1, "2000 x 2000 x 2000"), (0.0, 2**16, "40 x 40")):
        config = lung_segmenter.get_config("quickstart")
        config.data.isotropic_mm = isotropic_mm
        with config.unlocked():
            config.generator.classes = classes
        predictor = _Watched(ResizedCTMasks, config).predictor
        with pytest.raises(DataError, match=f"^the volume has {found}.*, above the limit"):
            predictor(volume)


@pytest.mark.parametrize("size", [48, 40])
def test_mr_volumes(tmp_path, size):
    fields = {"stored_size": 48, "image_size": size}
    data = _data(mri2ct.get_config("quickstart"), tmp_path / "data", **fields)
    evaluated = _evaluated(data)
    (mr,) = (SAMPLES / data.sample).rglob("mr.nii.gz")
    body = volume_file.read_labels(str(mr.with_name("mask.nii.gz"))).values
    values = mr_volumes.stored_source(volume_file.read_mr(str(mr)).values, body, data)
    stored = prepared_planes(values, data)
    _agree([stored[i] for _, i in sorted(evaluated)], [evaluated[key] for key in sorted(evaluated)])
    assert len(evaluated) > 50 and stored.max() > 60_000
