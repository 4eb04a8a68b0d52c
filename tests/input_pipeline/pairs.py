"""Writes pairs of MR and CT with SimpleITK: an ellipsoidal body with a hole, in air."""

import numpy as np
import SimpleITK as sitk

SHAPE = (9, 40, 32)  # slices from the feet, rows from the front, columns from the right
SPACING_MM = (1.1, 1.3, 2.5)  # columns, rows, slices, as SimpleITK has them
WITH_BODY = range(1, 8)  # slices


def body(shape=SHAPE):
    """bool: an ellipsoid that the first and the last slice do not reach."""
    z, y, x = (
        (index - (length - 1) / 2) / (length / 2 - margin)
        for index, length, margin in zip(np.indices(shape), shape, (0.9, 5, 3), strict=True)
    )
    return z**2 + y**2 + x**2 < 1


def image(values, axes="LPS", spacing=SPACING_MM):
    """A sitk.Image of [slices, rows, columns] whose file's axes run towards `axes`."""
    picture = sitk.GetImageFromArray(values)
    picture.SetSpacing(spacing)
    picture.SetOrigin((-17.5, 12.25, 700.0))
    return sitk.DICOMOrient(picture, axes)


def write_pair(folder, seed=0, ending=".nii.gz", source="mr", mask=True, axes="LPS"):
    """Writes source, ct and, if asked for, mask. The mask is smaller than the body. -> folder."""
    rng = np.random.default_rng(seed)
    inside = body()
    hu = np.where(inside, rng.integers(-100, 1500, SHAPE), -1000).astype(np.int16)
    if source == "mr":
        values = np.where(inside, rng.uniform(500, 900, SHAPE), rng.uniform(0, 9, SHAPE))
        values[4, 18:21, 14:17] = 0  # a hole
        values = values.astype(np.float32) * (seed + 1)
    else:
        values = np.where(inside, hu + rng.integers(-80, 80, SHAPE), -1000).astype(np.int16)
    smaller = inside & (np.indices(SHAPE)[0] < 7)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image(values, axes), str(folder / f"{source}{ending}"))
    sitk.WriteImage(image(hu, axes), str(folder / f"ct{ending}"))
    if mask:
        sitk.WriteImage(image(smaller.astype(np.uint8), axes), str(folder / f"mask{ending}"))
    return folder


def pictures(path):
    """The array [slices, rows, columns] that SimpleITK reads."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"))
