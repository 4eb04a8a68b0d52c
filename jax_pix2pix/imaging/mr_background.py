"""Fills what is not a number outside of the body, as registration leaves it there."""

import numpy as np
import scipy

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.body_mask import body_mask


def filled(values, name):
    """Gives voxels that are not numbers the lowest value.

    Those that reach the volume's border, or lie in air, are background: a stripped brain has folds
    that a slice closes.

    Args:
        values: float32 [slices, rows, columns], without infinite ones; changed in place.
        name: of the file, for messages.

    Returns:
        The same array.

    Raises:
        DataError: no voxel is a number, or the body has a gap.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    if missing.all():
        raise DataError(f"{name} holds no numbers: restore or remove it")
    values[missing] = np.nanmin(values)
    parts, _ = scipy.ndimage.label(missing, np.ones((3, 3, 3)))
    border = [np.unique(parts[place]) for place in _faces(parts.ndim)]
    gaps = missing & ~np.isin(parts, np.concatenate(border))
    inside = np.count_nonzero(gaps & (body_mask(values) > 0)) if gaps.any() else 0
    if inside:
        raise DataError(
            f"{name} holds {inside} voxels in the body that are not numbers: correct them; outside "
            "of it they count as background"
        )
    return values


def _faces(axes):
    """The places of the first and last voxels along each axis."""
    for axis in range(axes):
        for end in (0, -1):
            yield (slice(None),) * axis + (end,)
