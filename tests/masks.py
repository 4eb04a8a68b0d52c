"""Masks for tests of segmentation scores, and as files."""

import nibabel as nib
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

AFFINE = np.array([[0.8, 0, 0, 5], [0, -0.7, 0, 6], [0, 0, 2.5, -7], [0, 0, 0, 1]])


def blobs(rng, shape, share=0.2):
    """A bool mask of smooth random shapes that covers a share of the grid and meets its border."""
    noise = gaussian_filter(rng.normal(size=shape), 1.5)
    return noise > np.quantile(noise, 1 - share)


def pairs(shape, seed=0):
    """{name: (prediction, reference)}: the cases that a score may meet on one grid."""
    rng = np.random.default_rng(seed)
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    corner, middle = empty.copy(), empty.copy()
    corner[(0,) * len(shape)] = True
    middle[tuple(size // 2 for size in shape)] = True
    blob = blobs(rng, shape)
    return {
        "blobs": (blob, blobs(rng, shape, 0.3)),
        "equal": (blob, blob),
        "disjoint": (blob, ~blob),
        "noise": (rng.random(shape) < 0.4, blob),
        "voxels": (corner, middle),
        "voxel and blob": (corner, blob),
        "full": (blob, full),
        "nothing predicted": (empty, blob),
        "nothing there": (blob, empty),
        "both empty": (empty, empty),
    }


def save(path, content):
    """Writes bytes, a NIfTI image, or labels along the file's own axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix in (".png", ".tif", ".gif"):
        Image.fromarray(content).save(path)
    else:
        image = isinstance(content, nib.Nifti1Image)
        nib.save(content if image else nib.Nifti1Image(content, AFFINE), path)
