"""Fills what is not a number outside of the body, as registration leaves it there."""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.body_mask import body_mask


def filled(values, name):
    """Gives voxels that are not numbers the lowest value.

    Args:
        values: float32 [slices, rows, columns], without infinite ones; changed in place.
        name: of the file, for messages.

    Returns:
        The same array.

    Raises:
        DataError: no voxel is a number, or one in the body is not.
    """
    missing = np.isnan(values)
    if not missing.any():
        return values
    if missing.all():
        raise DataError(f"{name} holds no numbers: restore or remove it")
    values[missing] = np.nanmin(values)
    inside = np.count_nonzero(missing & (body_mask(values) > 0))
    if inside:
        raise DataError(
            f"{name} holds {inside} voxels in the body that are not numbers: correct them; outside "
            "of it they count as background"
        )
    return values
