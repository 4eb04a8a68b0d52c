"""Finds the body in an MR, a CT or a cone beam CT that has no mask. No TensorFlow."""

import numpy as np
import scipy

BINS = 256  # of the histogram
BRIGHTEST = 99.9  # percentile; vessels and artefacts beyond it would take up most of the bins


def body_mask(values):
    """Finds the body: applies Otsu's threshold, fills holes, keeps the largest component.

    Args:
        values: numbers [d, h, w]: a volume, or a single slice.

    Returns:
        uint8 [d, h, w]: 1 in the body, else 0; all 0 where all values are equal. Holes are filled
        slice by slice: a hole of the volume is a hole in each slice it crosses, and airways often
        lead out of the volume. They are filled before components are separated: the skull is dark
        in MR, and the scalp around it need not touch the brain.
    """
    import SimpleITK as sitk  # imported late: it is slow, and most images come with masks

    values = np.asarray(values, np.float32)
    image = sitk.GetImageFromArray(np.minimum(values, np.percentile(values, BRIGHTEST)))
    filled = sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1, BINS))
    for plane in filled:
        plane[...] = scipy.ndimage.binary_fill_holes(plane)
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(filled))
    components = sitk.RelabelComponent(components)  # the largest is 1
    return (sitk.GetArrayViewFromImage(components) == 1).astype(np.uint8)
