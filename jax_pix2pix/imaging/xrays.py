"""Reads chest X-rays and stretches them to the square that is stored. No TensorFlow."""

import os

import numpy as np

from jax_pix2pix.imaging.safe_io import read_img, read_png
from jax_pix2pix.imaging.slices import resize

JSRT = ".img"  # the ending, in lower case


def read_xray(path, channels):
    """Reads an X-ray, JSRT's .IMG or a PNG of at most 8 bits, so that bone is white.

    Returns:
        uint8 [h, w], or [h, w, 3] from a PNG with 3 channels.

    Raises:
        DataError: the file cannot be read in the format of its ending.
    """
    if os.fspath(path).lower().endswith(JSRT):
        return np.rint((4095 - read_img(path)) * (255 / 4095)).astype(np.uint8)
    return read_png(path, channels)


def stored_image(image, size, channels):
    """Stretches an X-ray to a square: uint8 [size, size, channels]."""
    pixels = resize(image, size, "bilinear").reshape(size, size, -1)
    return np.broadcast_to(pixels, (size, size, channels))
