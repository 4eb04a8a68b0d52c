"""Resizes volumes axis by axis, antialiased where an axis shrinks. No TensorFlow.

A new grid is given by its positions along each axis, evenly spaced, in voxels of the old volume.
Positions beyond the volume take the value of its nearest voxel.
"""

import numpy as np

from jax_pix2pix.imaging.memory import check_memory


def aligned_corners(shape, new_shape):
    """Positions a grid whose first and last voxels are the volume's own."""
    return [np.linspace(0, old - 1, new) for old, new in zip(shape, new_shape, strict=True)]


def isotropic(shape, spacing_mm, voxel_mm):
    """Positions a grid of voxel_mm cubes in the same field of view, to within half a voxel."""
    positions = []
    for length, spacing in zip(shape, spacing_mm, strict=True):
        count = _cubes(length, spacing, voxel_mm)
        from_middle = (np.arange(count) - (count - 1) / 2) * voxel_mm / spacing
        positions.append((length - 1) / 2 + from_middle)
    return positions


def whole(values, resize, spacing_mm, isotropic_mm, new_shape):
    """Resizes a whole volume to one shape, whatever its aspect, on aligned corners.

    Args:
        values: [slices, rows, columns].
        resize: `linear`, or `nearest` for labels.
        spacing_mm: of the volume, by axis.
        isotropic_mm: side of the cubic voxels to which it is resampled first; 0 for none.

    Returns:
        [*new_shape], of the same type; rounded after each step.
    """
    if isotropic_mm:
        values = rounded(
            resize(values, isotropic(values.shape, spacing_mm, isotropic_mm)), values.dtype
        )
    return rounded(resize(values, aligned_corners(values.shape, new_shape)), values.dtype)


def whole_back(values, shape, spacing_mm, isotropic_mm):
    """Interpolates what lies on the grid of `whole` on the voxels of its volume. -> float32.

    Args:
        values: numbers [d, h, w].
        shape, spacing_mm, isotropic_mm: of the volume, as for `whole`.
    """
    positions = []
    for length, spacing, new in zip(shape, spacing_mm, values.shape, strict=True):
        places, between = np.arange(length, dtype=float), length
        if isotropic_mm:
            between = _cubes(length, spacing, isotropic_mm)
            places = (places - (length - 1) / 2) * spacing / isotropic_mm + (between - 1) / 2
        positions.append(places * ((new - 1) / max(between - 1, 1)))
    return linear(values, positions)


def rounded(values, dtype):
    """Values as a type of whole numbers, rounded to even halves; of this type already, as is."""
    return values if values.dtype == dtype else np.rint(values).astype(dtype)


def check_resizing(path, shape, new_shape):
    """Raises DataError if `linear` would take too much memory; `path` is the volume's file."""
    # Rows and columns are resized first, then slices; the product of both is copied.
    largest = max(shape[0], new_shape[0]), *new_shape[1:]
    check_memory(path, largest, np.float32, np.float32, np.float32)


def check_whole(path, shape, spacing_mm, isotropic_mm, new_shape):
    """Raises DataError if `whole` would take too much memory. Arguments as of both above."""
    if isotropic_mm:
        cubes = tuple(
            _cubes(length, spacing, isotropic_mm)
            for length, spacing in zip(shape, spacing_mm, strict=True)
        )
        check_resizing(path, shape, cubes)
        shape = cubes
    check_resizing(path, shape, new_shape)


def _cubes(length, spacing, voxel_mm):
    """How many voxels of voxel_mm there are along an axis."""
    return max(1, round(length * spacing / voxel_mm))


def linear(values, positions):
    """Interpolates linearly; the kernel of an axis that shrinks is as wide as new voxels.

    Otherwise a chest CT that shrinks 3.6-fold would keep one slice in four and the noise of single
    voxels. An axis that does not shrink is interpolated as in PyTorch and SimpleITK.

    Args:
        values: numbers [slices, rows, columns].
        positions: of the new voxels, by axis.

    Returns:
        float32.
    """
    slices, rows, columns = map(_weights, values.shape, positions)
    # Slice by slice, so that no second volume of the old size is in memory.
    planes = np.empty((len(values), len(rows), len(columns)), np.float32)
    for plane, new in zip(values, planes, strict=True):
        new[...] = rows @ plane.astype(np.float32) @ columns.T
    return np.tensordot(slices, planes, 1)


def nearest(values, positions):
    """Takes the nearest voxel, so that labels stay labels; a tie goes to the higher index."""
    at = (
        np.clip(np.floor(places + 0.5).astype(int), 0, length - 1)
        for length, places in zip(values.shape, positions, strict=True)
    )
    return values[np.ix_(*at)]


def _weights(length, positions):
    """Weights of the old voxels in each new one: float32 [new, length]."""
    width = max(1.0, positions[1] - positions[0]) if len(positions) > 1 else 1.0
    places = np.clip(positions, 0, length - 1)
    weights = np.maximum(0, 1 - np.abs(np.arange(length) - places[:, None]) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
