"""Resamples a volume to the voxels of another one, by SimpleITK. No TensorFlow."""

import numpy as np

from jax_pix2pix.imaging.volume import Volume


def linear(volume, geometry, beyond):
    """Interpolates linearly between voxels.

    Args:
        volume: Volume.
        geometry: Geometry of the result.
        beyond: the value outside of the volume.

    Returns:
        Volume of the same type; integers are rounded.
    """
    resampled = _resampled(volume, geometry, "sitkLinear", beyond, np.float32)
    if volume.values.dtype.kind in "iu":
        np.rint(resampled, out=resampled)
    return Volume(resampled.astype(volume.values.dtype, copy=False), geometry)


def nearest(volume, geometry):
    """Takes the nearest voxel, so that labels stay labels, and 0 outside. -> Volume."""
    return Volume(
        _resampled(volume, geometry, "sitkNearestNeighbor", 0, volume.values.dtype), geometry
    )


def _resampled(volume, geometry, interpolator, beyond, dtype):
    """Resamples in voxel indices, which any affine has: ITK's own directions allow no shear."""
    import SimpleITK as sitk  # imported late: it is slow, and few data sets are resampled

    voxels = np.asarray(volume.geometry.to_file(volume.values), dtype)
    image = sitk.GetImageFromArray(voxels.T)  # the array's first axis is ITK's last
    between = np.linalg.inv(volume.geometry.affine) @ geometry.affine
    transform = sitk.AffineTransform(between[:3, :3].ravel().tolist(), between[:3, 3].tolist())
    resampled = sitk.Resample(
        image,
        [int(length) for length in geometry.file_shape],
        transform,
        getattr(sitk, interpolator),
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        np.eye(3).ravel().tolist(),
        float(beyond),
    )
    return geometry.to_pictures(sitk.GetArrayFromImage(resampled).T)
