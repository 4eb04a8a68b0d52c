"""Pairs of a CT and a synthetic CT for tests of their scores."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from tests.masks import blobs

ABDOMEN = Path(__file__).parents[1] / "input_pipeline/samples/abdomen_ct/volume-0.nii.gz"


def random_pair(shape, seed=0):
    """(ct, sct, mask): textures of -1500 to 4000 HU, float64, and a body that meets the border."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=shape), 1)
    ct = np.interp(texture, (texture.min(), texture.max()), (-1500, 4000))
    sct = ct + rng.normal(0, 300, shape)
    return ct, sct, blobs(rng, shape, 0.4)


def abdomen_pair():
    """(ct, sct, mask) of the embedded abdominal CT: int16 HU and bool, [slices, rows, columns].

    The synthetic CT is blurred, noisy and 20 HU too bright. The body is an ellipse.
    """
    image = nib.loadsave.load(ABDOMEN)
    ct = np.ascontiguousarray(np.asarray(image.dataobj).T[:, ::2, ::2]).astype(np.int16)
    noise = np.random.default_rng(0).normal(20, 40, ct.shape)
    sct = np.rint(gaussian_filter(ct.astype(float), (0, 1, 1)) + noise).astype(np.int16)
    rows, columns = (np.linspace(-1, 1, size) for size in ct.shape[1:])
    ellipse = rows[:, None] ** 2 + columns**2 < 0.8
    return ct, sct, np.broadcast_to(ellipse, ct.shape).copy()
