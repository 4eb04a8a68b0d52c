"""Short prints of pictures and volumes, by which the same one is known again. No TensorFlow.

A print tells between which cells of a coarse grid brightness rises from left to right (a difference
hash). It stays nearly the same if values are scaled or windowed, or stored in another format or
size, and says too little to draw the picture.
"""

import numpy as np
from PIL import Image

CELLS = 16  # rows and columns of the grid
BLOCKS = 4  # of the slices of a volume, each averaged
RISE = 0.02  # of the range of the cells' values; less counts as flat
SAME = 0.1  # the largest distance of two prints of one image


def pixel_print(planes):
    """The print of a picture, or of a volume's slices in their order.

    Args:
        planes: sequence of numbers [h, w], one for a picture. Of a volume the slices that are
            stored, so that air above and below does not matter.

    Returns:
        64 hexadecimal digits; 256 if there are 4 slices or more; "" if all is flat.
    """
    blocks = np.array_split(range(len(planes)), BLOCKS if len(planes) >= BLOCKS else 1)
    cells = np.stack([_cells([planes[number] for number in block]) for block in blocks])
    rises = np.diff(cells, axis=-1) > RISE * np.ptp(cells)
    return np.packbits(rises).tobytes().hex() if rises.any() else ""


def distance(one, other):
    """The share of rises that only one of two prints has, 0 to 1; 1 where they do not compare."""
    if not one or len(one) != len(other):
        return 1.0
    one, other = int(one, 16), int(other, 16)
    return (one ^ other).bit_count() / max((one | other).bit_count(), 1)


def _cells(planes):
    """The mean of the planes on the coarse grid; one plane at a time is in memory."""
    mean = np.zeros(planes[0].shape, np.float32)
    for plane in planes:
        mean += plane
    size = CELLS + 1, CELLS  # columns, rows
    return np.asarray(Image.fromarray(mean / len(planes)).resize(size, Image.Resampling.BOX))
