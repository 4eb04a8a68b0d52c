"""Cleans up a predicted mask: keeps its largest components, fills holes, looks at its border."""

import numpy as np
import scipy

SMALLEST_SHARE = 0.1  # of the largest component's size, for one off the border to come first
MOST_BORDER = 0.2  # of a picture's border that a mask may cover without a note
PROTOCOL = (
    "largest components kept: {count}, 26-connected (8-connected in 2D), all classes together; "
    "first those that do not touch the border of their picture, of a volume the borders of its "
    f"slices, and have at least {SMALLEST_SHARE:g} x the size of the largest one, then the others, "
    "each by size, of equals the first; of single slices where a volume's have gaps between them"
)
FILLED = (
    "holes filled: background that no path of face neighbours leads out of, in the picture or in "
    "the volume, with the class of the nearest voxel, after components are chosen; slice by slice "
    "where a volume's have gaps between them"
)


def cleaned(labels, components=0, fill_holes=False):
    """Cleans up a mask; see PROTOCOL and FILLED.

    Args:
        labels: integers [h, w] or [d, h, w], 0 is background.
        components: how many to keep; 0 keeps all.
        fill_holes: whether holes are filled.

    Returns:
        The same type and shape.
    """
    if components:
        labels = labels * largest_components(labels > 0, components)
    if fill_holes and labels.any():
        (box,) = scipy.ndimage.find_objects((labels > 0).view(np.uint8))
        held = labels[box]
        holes = scipy.ndimage.binary_fill_holes(held > 0) & (held == 0)
        nearest = scipy.ndimage.distance_transform_edt(
            held == 0, return_distances=False, return_indices=True
        )
        labels = labels.copy()
        labels[box] = np.where(holes, held[tuple(nearest)], held)
    return labels


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
        sizes = np.bincount(labels.ravel())[1:]
        at_border = np.unique(labels[..., border(mask.shape[-2:])[box[-2:]]])
        first = sizes >= SMALLEST_SHARE * sizes.max()
        first[at_border[at_border > 0] - 1] = False
        is_kept = np.zeros(len(sizes) + 1, bool)
        is_kept[1 + np.lexsort((-sizes, ~first))[:count]] = True
        kept[box] = is_kept[labels]
    return kept


def border(shape):
    """Marks the first and last rows and columns of a picture: bool [h, w]."""
    marked = np.ones(shape, bool)
    marked[1:-1, 1:-1] = False
    return marked


def border_note(mask):
    """Describes a mask that covers much of the border of its picture, or of a slice.

    Args:
        mask: bool [h, w] or [d, h, w].

    Returns:
        A sentence, or None where no picture has MOST_BORDER of its border in the mask.
    """
    share = mask[..., border(mask.shape[-2:])].mean(-1)
    if not (share >= MOST_BORDER).any():
        return None
    where = "the picture's border"
    if mask.ndim == 3:
        where = f"the border of a slice ({np.sum(share >= MOST_BORDER)} slices so)"
    return (
        f"the mask covers {100 * share.max():.0f} % of {where}: it may hold what lies outside the "
        "body; look at it, or keep components off the border (largest_components)"
    )
