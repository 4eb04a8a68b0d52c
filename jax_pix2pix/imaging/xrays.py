"""Reads chest X-rays and stretches them to the square that is stored. No TensorFlow."""

import os

import numpy as np

from jax_pix2pix.imaging import folder_files
from jax_pix2pix.imaging.hounsfield import check_grey
from jax_pix2pix.imaging.safe_io import Picture, picture_header, read_deep_picture, read_img
from jax_pix2pix.imaging.slices import resize

JSRT = ".img"  # the ending, in lower case
ENDINGS = ".png, .jpg, .tif, JSRT's .IMG and DICOM"
KINDS = (folder_files.PICTURE, folder_files.DICOM, folder_files.JSRT)  # files that are read
PERCENTILES = (0.5, 99.5)  # of the values that become black and white without a window
BY_PERCENTILES = "percentiles 0.5 and 99.5 of the values, which become 0 and 255"
SCALED = f"of 16 bits: by {BY_PERCENTILES}"


def read_xray(path, channels):
    """Reads an X-ray so that bone is white and the picture stands upright.

    JSRT's .IMG; DICOM of a CR or DX, by its window and inverted if it is MONOCHROME1; or a PNG,
    JPEG or TIFF of 8 bits, or of 16 if it is grey.

    Returns:
        Picture: uint8 [h, w], or [h, w, 3] from colours with 3 channels; and in words how it was
        read, where that is not plain.

    Raises:
        DataError: the file cannot be read as one of these, or looks scaled to [0, 1].
    """
    if os.fspath(path).lower().endswith(JSRT):
        return Picture(np.rint((4095 - read_img(path)) * (255 / 4095)).astype(np.uint8))
    if folder_files.kind_of(path)[0] == folder_files.DICOM:
        from jax_pix2pix.imaging.formats import dicom_xray  # late: SimpleITK is slow to import

        return dicom_xray.read(path)
    pixels, notes = read_deep_picture(path, channels)
    if pixels.dtype == np.uint8:
        check_grey(pixels, path)
        return Picture(pixels, notes)
    return Picture(to_grey(pixels, *np.percentile(pixels, PERCENTILES)), (*notes, SCALED))


def reading_notes(paths):
    """Tells how X-rays are read where that is not plain, from their headers: a list of lines."""
    dicom = deep = turned = 0
    for path in paths:
        kind = folder_files.kind_of(path)[0]
        dicom += kind == folder_files.DICOM
        if kind == folder_files.PICTURE:
            bits, orientation = picture_header(path)
            deep, turned = deep + (bits > 8), turned + (orientation != 1)
    return [
        f"{count} {how}"
        for count, how in (
            (
                dicom,
                f"DICOM: by their window, without one by {BY_PERCENTILES}; MONOCHROME1 inverted",
            ),
            (deep, SCALED),
            (turned, "turned upright by their orientation tag"),
        )
        if count
    ]


def to_grey(values, low, high):
    """Maps low to 0 and high to 255, rounded and clipped: uint8."""
    scaled = (values.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def stored_image(image, size, channels):
    """Stretches an X-ray to a square: uint8 [size, size, channels]."""
    pixels = resize(image, size, "bilinear").reshape(size, size, -1)
    return np.broadcast_to(pixels, (size, size, channels))
