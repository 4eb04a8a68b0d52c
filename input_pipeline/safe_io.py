"""Readers for files of unknown origin: sizes are checked before memory is taken. No TensorFlow."""

import math
import os
import warnings

import numpy as np
from PIL import Image

MAX_PIXELS = 8192 * 8192
_READ_HEADER = {  # by version of the format; a third one is for structured arrays
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# Pillow warns above a larger size than MAX_PIXELS, which is refused here anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class DataError(ValueError):
    """Data that cannot be used. The message is one line: the file, what is wrong, what to do."""


def read_grey_png(path):
    """Reads an 8-bit grey PNG, or an RGB one whose three channels are equal.

    Returns:
        uint8 [h, w].

    Raises:
        DataError: the file cannot be read, is no PNG, is too large, or is not 8-bit grey.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} is {image.width} x {image.height}, above the limit of {MAX_PIXELS} "
                    "pixels: make it smaller"
                )
            mode = image.mode
            pixels = np.asarray(image if mode in ("L", "RGB") else ())
    except DataError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, zlib.error, ... of bad files
        raise unreadable(path, "a PNG image", error) from error
    if mode == "L":
        return pixels
    if mode == "RGB" and (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    raise DataError(f"{path} is not 8-bit grey but mode {mode}: convert it to 8-bit grey")


def read_mask_npy(path):
    """Reads a mask that `numpy.save` wrote: bool, integer, or float with integral values.

    Returns:
        uint8 [h, w], from [h, w] or with one more axis of length 1.

    Raises:
        DataError: the file cannot be read, is pickled or truncated, is too large, or does not
            hold integers in [0, 255].
    """
    try:
        with open(path, "rb") as file:
            shape, fortran_order, dtype = _READ_HEADER[np.lib.format.read_magic(file)](file)
            if dtype.kind not in "buif":
                raise DataError(f"{path} holds {dtype}: save the mask as uint8")
            if len(shape) - (len(shape) == 3 and 1 in shape) != 2:
                raise DataError(f"{path} has the shape {shape}: save the mask as [height, width]")
            if math.prod(shape) > MAX_PIXELS:
                raise DataError(f"{path} has the shape {shape}, above the limit of {MAX_PIXELS}")
            size = math.prod(shape) * dtype.itemsize
            if not 0 < size <= os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError(f"no {size} bytes for the shape {shape}")
            array = np.frombuffer(file.read(size), dtype)
    except DataError:
        raise
    except Exception as error:  # the header is Python source to NumPy, which may raise anything
        raise unreadable(path, "a plain .npy array", error) from error
    array = array.reshape(shape, order="F" if fortran_order else "C")
    if array.ndim == 3:
        array = array.squeeze(axis=shape.index(1))
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise DataError(f"{path} holds values that are not integers: save the mask as uint8")
    if array.min() < 0 or array.max() > 255:
        raise DataError(f"{path} holds values outside [0, 255]: save the mask as uint8")
    return array.astype(np.uint8)


def read_mask(path):
    """Reads a mask, .npy or .png. Returns uint8 [h, w]; raises DataError."""
    return read_mask_npy(path) if os.fspath(path).lower().endswith(".npy") else read_grey_png(path)


def check_same_size(image, image_path, mask, mask_path):
    """Raises DataError unless an image and its mask have the same height and width."""
    if image.shape[:2] != mask.shape[:2]:
        raise DataError(
            f"{image_path} has the shape {image.shape[:2]} but its mask {mask_path} has "
            f"{mask.shape[:2]}: they must cover the same pixels"
        )


def unreadable(path, kind, error):
    """The DataError for any other error on reading: `kind` is what the file should have been."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    reason = " ".join(str(reason).replace(os.fspath(path), "it").split())[:200]
    return DataError(f"{path} cannot be read as {kind} ({reason}): restore or remove it")
