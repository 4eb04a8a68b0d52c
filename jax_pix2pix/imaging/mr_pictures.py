"""Reads a pair of 8-bit pictures, one slice each, in two files or side by side. No TensorFlow.

`config` is the data set's Config throughout, and `pair` is one of layouts.Pictures.
"""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.hounsfield import check_grey, check_hu
from jax_pix2pix.imaging.mr_intensity import grey_to_hu, stored_grey
from jax_pix2pix.imaging.planes import stored_image, stored_labels
from jax_pix2pix.imaging.safe_io import read_picture

SEEN = 20  # pictures by which the window is checked


def has_body(root, pair, config):
    """Tells whether the picture shows some body once it is stored. Raises DataError."""
    source, _ = _pair(root, pair, config)
    return bool(stored_labels(_mask(source), config.stored_size).any())


def check_window(root, pairs, config):
    """Checks that image_window_hu makes HU of the CTs' grey levels, by SEEN pictures.

    Raises:
        DataError: a file cannot be read, or the values are certainly no HU.
    """
    few = pairs[:: max(1, len(pairs) // SEEN)]
    grey = np.concatenate([_pair(root, pair, config)[1].ravel() for pair in few])
    if not grey.any():
        return  # as `has_body` tells
    try:
        check_hu(grey_to_hu(grey, config.image_window_hu), root / few[0].ct)
    except DataError as error:
        raise DataError(
            f"{error}; of {len(few)} pictures, if black and white are {config.image_window_hu} HU: "
            "set config.data.image_window_hu to what they are"
        ) from None


def read(root, pair, config):
    """Reads the record of a pair; `builder.Builder.read` describes it.

    Raises:
        DataError: a file cannot be read; two files differ in size; or a side-by-side picture has
            an odd width.
    """
    size = config.stored_size
    source, ct = _pair(root, pair, config)
    hu = grey_to_hu(ct, config.image_window_hu)
    return {
        "image": stored_source(source, size),
        "ct": stored_image(hu, size)[..., None],
        "mask": stored_labels(_mask(source), size)[..., None],
        "spacing_mm": (0.0, 0.0, 0.0),
    }


def stored_source(source, size):
    """Converts a source's picture to its stored form, in preparation and in prediction.

    uint8 [h, w] -> uint16 [size, size, 1].
    """
    return stored_image(stored_grey(source), size, beyond=0)[..., None]


def _mask(source):
    return body_mask(source[None])[0]


def _pair(root, pair, config):
    """Reads source and CT, uint8 [h, w] each."""
    source = read_picture(root / pair.source)
    check_grey(source, root / pair.source)
    if pair.ct != pair.source:
        ct = read_picture(root / pair.ct)
        check_grey(ct, root / pair.ct)
        if ct.shape != source.shape:
            sizes = [" x ".join(map(str, picture.shape[::-1])) for picture in (source, ct)]
            raise DataError(
                f"{root / pair.source} has {sizes[0]} pixels but its CT {root / pair.ct} has "
                f"{sizes[1]}: they must cover the same pixels"
            )
        return source, ct
    if source.shape[1] % 2:
        raise DataError(
            f"{root / pair.source} is {source.shape[1]} pixels wide, which are not two pictures "
            "of one size side by side: correct or remove it"
        )
    left, right = np.split(source, 2, axis=1)
    return (left, right) if config.source_side == "left" else (right, left)
