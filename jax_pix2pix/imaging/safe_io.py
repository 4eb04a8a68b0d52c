"""Reads files of unknown origin: checks sizes before it allocates memory. No TensorFlow."""

import io
import math
import os
import warnings

import numpy as np
from PIL import Image

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.label_values import foreground, labels_of
from jax_pix2pix.imaging.memory import DEFLATE_RATIO, MAX_SIDE, check_memory
from jax_pix2pix.safety.safe_files import open_to_read

PICTURES = (".png", ".jpg", ".jpeg")  # endings that read_picture reads, in lower case
MAX_PIXELS = MAX_SIDE * MAX_SIDE
MAX_PICTURE = 2**28  # bytes of a file: as many as MAX_PIXELS in three colours, uncompressed
MAX_SCANS = 100  # of a JPEG: each takes time; programs write some ten
DENSEST = 8 * DEFLATE_RATIO  # pixels of one bit that a byte of a picture may hold
HELD = (np.uint32, np.uint32, np.uint32)  # pixels as Pillow decodes and converts them, and NumPy
MAX_NPY_HEADER = 2**14  # bytes; NumPy writes about 128
_READ_HEADER = {  # by version of the format; version 3 is for structured arrays
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# Pillow warns only above MAX_PIXELS, where pictures are refused anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_grey_png(path):
    """Reads an 8-bit grey PNG, or an RGB one whose three channels are equal.

    Returns:
        uint8 [h, w].

    Raises:
        DataError: the file cannot be read, is not a PNG, is too large, or is not 8-bit grey.
    """
    return _grey(_decode(path, "PNG", {"L": "L", "RGB": "RGB"}, "8-bit grey"), path)


def read_png(path, channels):
    """Reads a PNG of at most 8 bits, grey, RGB or with a palette.

    Args:
        channels: 1 or 3.

    Returns:
        uint8 [h, w] with 1 channel: grey unchanged, colours as their ITU-R 601 luma. [h, w, 3]
        with 3 channels, which are equal for grey.

    Raises:
        DataError: the file cannot be read, is not a PNG, is too large, or of another mode.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    return _decode(path, "PNG", dict.fromkeys(("1", "L", "P", "RGB"), mode), "8-bit grey or RGB")


def read_picture(path):
    """Reads a PNG, or a JPEG if the ending is not .png, of at most 8 bits, as grey.

    Returns:
        uint8 [h, w]: grey unchanged, colours as their ITU-R 601 luma.

    Raises:
        DataError: the file cannot be read in the format of its ending, is too large, or of another
            mode.
    """
    kind = "PNG" if os.fspath(path).lower().endswith(".png") else "JPEG"
    return _decode(path, kind, dict.fromkeys(("1", "L", "P", "RGB"), "L"), "8-bit grey or RGB")


def read_binary_mask(path):
    """Reads a mask of two classes, .png or .gif, in 0 and 255, 0 and 1, or with soft edges.

    Returns:
        uint8 [h, w], 0 and 1.

    Raises:
        DataError: the file cannot be read, is too large, is not 8-bit grey, or
            `label_values.foreground` refuses its values.
    """
    kind = "GIF" if os.fspath(path).lower().endswith(".gif") else "PNG"
    modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    mask = _grey(_decode(path, kind, modes, "8-bit grey"), path)
    return foreground(mask, path, soft_edges=True).astype(np.uint8)


def read_img(path):
    """Reads a JSRT image: 2048 x 2048 big-endian 16-bit words, 12 bits used, without a header.

    Returns:
        uint16 [2048, 2048], 0 to 4095; higher is blacker on film.

    Raises:
        DataError: the file cannot be read, or has another size or range.
    """
    size = 2048 * 2048 * 2
    try:
        with open_to_read(path) as file:
            found = os.fstat(file.fileno()).st_size
            pixels = np.frombuffer(file.read(size) if found == size else b"", ">u2")
    except OSError as error:
        raise unreadable(path, "a JSRT image", error) from error
    if found != size:
        raise DataError(f"{path} has {found} bytes, not the {size} of a JSRT image: restore it")
    if pixels.max() > 4095:
        raise DataError(
            f"{path} holds the value {pixels.max()}, above the 4095 of 12 bits: restore it"
        )
    return pixels.astype(np.uint16).reshape(2048, 2048)


def read_mask_npy(path):
    """Reads a mask that `numpy.save` wrote: bool, integer, or float with integral values.

    Returns:
        uint8 [h, w], from [h, w] or with one more axis of length 1.

    Raises:
        DataError: the file cannot be read, is pickled or truncated, is too large, or does not
            hold integers in [0, 255].
    """
    try:
        with open_to_read(path) as file:
            # NumPy would allocate any header length that the file claims: it gets a bounded copy.
            start = io.BytesIO(file.read(MAX_NPY_HEADER))
            shape, fortran_order, dtype = _READ_HEADER[np.lib.format.read_magic(start)](start)
            file.seek(start.tell())
            if not all(type(side) is int and side >= 0 for side in shape):  # True is not a length
                raise ValueError(f"the shape {shape}")
            if dtype.kind not in "buif":
                raise DataError(f"{path} holds {dtype}: save the mask as uint8")
            if len(shape) - (len(shape) == 3 and 1 in shape) != 2:
                raise DataError(f"{path} has the shape {shape}: save the mask as [height, width]")
            check_memory(path, shape, dtype, dtype, dtype)
            size = math.prod(shape) * dtype.itemsize
            if not 0 < size <= os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError(f"no {size} bytes for the shape {shape}")
            array = np.frombuffer(file.read(size), dtype)
    except DataError:
        raise
    except Exception as error:  # NumPy reads the header as Python source and may raise anything
        raise unreadable(path, "a plain .npy array", error) from error
    array = array.reshape(shape, order="F" if fortran_order else "C")
    if array.ndim == 3:
        array = array.squeeze(axis=shape.index(1))
    return labels_of(path, array)


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


def _decode(path, kind, modes, wanted):
    """Decodes an image file of one frame.

    Args:
        kind: "PNG", "JPEG" or "GIF".
        modes: Pillow's modes that the file may have -> the mode that each is converted to.
        wanted: these modes, in words.

    Returns:
        uint8 [h, w] or [h, w, 3].
    """
    try:
        with open_to_read(path) as file:
            size = _check_file(path, file, kind)
            with Image.open(file, formats=[kind]) as image:
                check_memory(path, image.size, *HELD)
                if math.prod(image.size) > size * DENSEST:
                    raise ValueError(f"its {size} bytes hold no {image.width} x {image.height}")
                mode = image.mode
                if str(image.tile[0].args).endswith("16B"):  # Pillow would drop 8 bits of colours
                    mode = f"{mode}, 16-bit"
                elif getattr(image, "is_animated", False):
                    mode = f"{mode}, of several frames"
                if mode in modes:
                    return np.asarray(image.convert(modes[mode]))
    except DataError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, zlib.error, ... on bad files
        raise unreadable(path, f"a {kind} image", error) from error
    raise DataError(f"{path} is not {wanted} but mode {mode}: convert it to {wanted}")


def _check_file(path, file, kind):
    """Checks what is read before Pillow knows a size. -> bytes of the file."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_PICTURE:
        raise DataError(f"{path} has {size} bytes, above the limit of {MAX_PICTURE}: save it anew")
    if kind == "JPEG":
        if file.read().count(b"\xff\xda") > MAX_SCANS:
            raise DataError(
                f"{path} has more scans than the limit of {MAX_SCANS}: save it without progression"
            )
        file.seek(0)
    return size


def _grey(pixels, path):
    """Reduces [h, w, 3] with equal channels to [h, w]; keeps [h, w]."""
    if pixels.ndim == 2:
        return pixels
    if (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    raise DataError(f"{path} is not 8-bit grey but mode RGB: convert it to 8-bit grey")


def unreadable(path, kind, error):
    """Makes the DataError for any other reading error; `kind` is what the file should be."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    reason = " ".join(str(reason).replace(os.fspath(path), "it").split())[:200]
    return DataError(f"{path} cannot be read as {kind} ({reason}): restore or remove it")
