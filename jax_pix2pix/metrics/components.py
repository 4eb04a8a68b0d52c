"""Cleans up a predicted mask by its connected components."""

import numpy as np
import scipy

PROTOCOL = (
    "largest components kept: {count}, 26-connected (8-connected in 2D), all classes together, of "
    "equals the first; of single slices where a volume's have gaps between them"
)


def largest_components(mask, count):
    """Keeps the largest components of a mask; see PROTOCOL.

    Args:
        mask: bool [h, w] or [d, h, w], NumPy.
        count: of components, at least 1.

    Returns:
        bool, of the same shape. The component whose first voxel comes first wins between equals.
    """
    kept = np.zeros_like(mask)
    for box in scipy.ndimage.find_objects(mask.view(np.uint8)):  # one, or none if the mask is empty
        # SciPy numbers components in the order of their first voxels.
        labels = np.empty(mask[box].shape, np.int32)
        scipy.ndimage.label(mask[box], np.ones((3,) * mask.ndim), output=labels)
        sizes = np.bincount(labels.ravel())
        largest = 1 + np.argsort(-sizes[1:], kind="stable")[:count]
        is_kept = np.zeros(len(sizes), bool)
        is_kept[largest] = True
        kept[box] = is_kept[labels]
    return kept
