"""Lung masks of whole CT volumes by a network that sees them resized, recomputed with PyTorch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
import torch

import jax_pix2pix
from configs import lung_segmenter
from input_pipeline import samples
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.geometry import UNKNOWN
from jax_pix2pix.imaging.volume_file import read_ct, read_labels
from jax_pix2pix.losses import segmenter
from jax_pix2pix.metrics.mask_scores import score_masks
from tests import untrained

CHEST = Path(samples.__file__).parent / "chest_volumes"
SIZE = (16, 80, 80)


def _save(folder, **fields):
    config = lung_segmenter.get_config("quickstart")
    config.data.update(fields)
    return untrained.save(folder, config)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return jax_pix2pix.load(_save(tmp_path_factory.mktemp("run") / "run"))


def _trilinear(values, shape):
    volume = torch.from_numpy(np.asarray(values, np.float64))[None, None]
    how = {"mode": "trilinear", "align_corners": True}
    return torch.nn.functional.interpolate(volume, shape, **how)[0, 0].numpy()


def _planes(values, side):
    planes = torch.from_numpy(np.asarray(values, np.float64))[:, None]
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return torch.nn.functional.interpolate(planes, (side, side), **how)[:, 0].numpy()


def test_a_mask_is_that_of_the_resized_volume_on_its_own_voxels(run, tmp_path):
    """The volume shrinks for the network, and grows back without antialiasing, as in PyTorch."""
    hu = np.random.default_rng(0).integers(-1500, 1500, (96, 90, 30)).astype(np.int16)
    affine = np.diag([-1.2, -1.2, 4.0, 1])
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hu, affine), path)
    found = run.predict(str(path), threshold=0.5)

    planes = read_ct(path).values
    positions = volume_resizing.aligned_corners(planes.shape, SIZE)
    stored = np.rint(volume_resizing.linear(np.clip(planes, -1000, 1000), positions))
    seen = np.rint(_planes(stored, 64)) / 1000
    module = run.system.generator
    image = jnp.asarray(seen, jnp.float32)[None, ..., None]
    output = jax.jit(lambda x: module.apply({"params": run.generator.params}, x, train=False))
    probabilities = (np.asarray(output(image))[0, ..., 0] + 1) / 2
    back = _trilinear(_planes(probabilities, 80), planes.shape)
    decided = np.abs(back - 0.5) > 1e-3
    assert 0.05 < (back > 0.5).mean() < 0.95 and decided.mean() > 0.98
    np.testing.assert_array_equal(found.values[decided], (back > 0.5)[decided])

    (written,) = found.save(tmp_path / "mask.nii.gz")
    saved = nib.load(written)
    np.testing.assert_allclose(saved.affine, affine)
    assert saved.shape == hu.shape and saved.get_data_dtype() == np.uint8
    unknown = nib.Nifti1Image(np.resize(hu, (256, 256, 3)), np.eye(4))
    assert UNKNOWN in run.predict(unknown, threshold=0.5).notes


def test_the_embedded_weights_find_the_lungs_of_a_ct(tmp_path):
    """On the patient on which they were not trained; `weights/README.md` has how they were made."""
    run = jax_pix2pix.load(_save(tmp_path / "run", source_range=(-1000, 1000)))
    probabilities = segmenter.load("")

    def outputs(passes):
        del passes

        def of(stored):
            mean = np.asarray(jax.jit(probabilities)(jnp.asarray(stored, jnp.float32)))
            return mean, np.zeros(mean.shape[:-1])

        return of

    run.predictor.probabilities = outputs
    found = run.predict(CHEST / "subset9" / "PR-LUNG1-0001.mhd", largest_components=2)
    lungs = read_labels(CHEST / "seg-lungs-LUNA16" / "PR-LUNG1-0001.mhd").values > 0
    scores = score_masks(found.values > 0, lungs, found.spacing_mm)
    print(scores)
    assert scores["dice"] > 0.9


def test_a_run_of_crops_is_refused(tmp_path):
    run = jax_pix2pix.load(_save(tmp_path, crops=2))
    with pytest.raises(ConfigError, match=r"config.data.crops=2: this run saw crops"):
        run.predict(CHEST / "subset9" / "PR-LUNG1-0001.mhd")
