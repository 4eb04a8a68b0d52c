"""A synthetic head with a skull, made of ellipsoids, for tests of doses."""

import numpy as np


def head(voxels=64, spacing_mm=4.0):
    """A head that is not the same front to back: a thick occiput, a frontal sinus and a nose.

    Returns:
        (ct, mask): HU, float64, and the body, bool [voxels, voxels, voxels], in cubic voxels.
    """
    axis = (np.arange(voxels) - (voxels - 1) / 2) * spacing_mm
    z, y, x = np.ix_(axis, axis, axis)
    width = 72 * (1 + 0.12 * np.clip(y / 95, -1, 1))
    radius = np.sqrt((z / 100) ** 2 + (y / 95) ** 2 + (x / width) ** 2)
    mask = radius < 1
    skull = (radius < 0.95) & (radius > np.where(y > 0, 0.85, 0.89))
    ct = np.where(mask, np.where(skull, 900.0, 40.0), -1000.0)
    for hu, middle, size in (
        (-950, (0, -80, 0), (18, 9, 22)),  # frontal sinus
        (-900, (-45, -60, 0), (30, 28, 14)),  # nose
        (700, (-45, 15, 45), (20, 22, 15)),  # petrous bones
        (700, (-45, 15, -45), (20, 22, 15)),
    ):
        places = zip((z, y, x), middle, size, strict=True)
        inside = sum(((axis - at) / half) ** 2 for axis, at, half in places) < 1
        ct = np.where(inside & mask, hu, ct)
    return ct, mask


def mirrored(ct, mask):
    """The head front to back within the body's box, made slice by slice."""
    turned = ct.copy()
    rows = np.flatnonzero(mask.any((0, 2)))
    for row in rows:
        turned[:, row] = ct[:, rows[0] + rows[-1] - row]
    return turned
