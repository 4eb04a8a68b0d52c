"""Reads files of unknown origin: checks sizes before it allocates memory. No TensorFlow."""

import io
import math
import os
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.label_values import foreground, labels_of
from jax_pix2pix.imaging.memory import DEFLATE_RATIO, MAX_SIDE, check_memory
from jax_pix2pix.safety.safe_files import open_to_read

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")  # endings of pictures, in lower case
SIGNATURES = {  # how files of each format begin; the name's ending decides nothing
    "PNG": (b"\x89PNG",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*"),
    "GIF": (b"GIF87a", b"GIF89a"),
}
LOSSLESS = ("PNG", "TIFF", "GIF")
EIGHT_BITS = ("1", "L", "P", "RGB")  # Pillow's modes of at most 8 bits a colour
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")
ORIENTATION, TILE = 0x0112, (0x0142, 0x0143)  # tags of TIFF; the first of EXIF too
UPRIGHT = {  # by its value: what turns and mirrors [h, w, ...] as the tag asks for
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
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


class Picture(NamedTuple):
    """Pixels, upright, and in words how they were read where that is not plain."""

    pixels: np.ndarray
    notes: tuple = ()


def read_grey_png(path):
    """Reads an 8-bit grey PNG, or an RGB one whose three channels are equal.

    Returns:
        uint8 [h, w].

    Raises:
        DataError: the file cannot be read, is not a PNG, is too large, or is not 8-bit grey.
    """
    return _grey(_decode(path, ("PNG",), {"L": "L", "RGB": "RGB"}, "8-bit grey"), path)


def read_picture(path):
    """Reads a PNG, JPEG or TIFF of at most 8 bits as grey, whatever its name ends in.

    Returns:
        uint8 [h, w], upright: grey unchanged, colours as their ITU-R 601 luma.

    Raises:
        DataError: the file cannot be read, is none of these, is too large, or of another mode.
    """
    modes = dict.fromkeys(EIGHT_BITS, "L")
    return _decode(path, ("PNG", "JPEG", "TIFF"), modes, "8-bit grey or RGB").pixels


def read_deep_picture(path, channels):
    """Reads a PNG, JPEG or TIFF of at most 8 bits, or one of 16 bits that is grey.

    Args:
        channels: 1 or 3.

    Returns:
        Picture: uint8 [h, w] with 1 channel, grey unchanged, colours as their ITU-R 601 luma;
        uint8 [h, w, 3] with 3 channels, equal for grey; or uint16 [h, w].

    Raises:
        DataError: as `read_picture`.
    """
    modes = dict.fromkeys(EIGHT_BITS, {1: "L", 3: "RGB"}[channels])
    modes |= {mode: mode for mode in SIXTEEN_BITS}
    return _decode(path, ("PNG", "JPEG", "TIFF"), modes, "8-bit grey or RGB, or 16-bit grey")


def picture_header(path):
    """(bits a colour, value of the orientation tag) of a PNG, JPEG or TIFF, without its pixels.

    (8, 1) where it cannot be read, which reading the pixels tells.
    """
    try:
        with open_to_read(path) as file:
            _check_file(path, file, ("PNG", "JPEG", "TIFF"))
            with Image.open(file, formats=("PNG", "JPEG", "TIFF")) as image:
                bits = 16 if image.mode in SIXTEEN_BITS else 8
                if image.format == "TIFF":
                    return bits, image.tag_v2.get(ORIENTATION, 1)
                # Pillow would decode a PNG to look for a tag behind its pixels.
                held = image.format == "JPEG" or "exif" in image.info
                return bits, image.getexif().get(ORIENTATION, 1) if held else 1
    except Exception:  # as in `_decode`
        return 8, 1


def read_label_picture(path):
    """Reads a picture of labels, PNG, TIFF or GIF, 8-bit grey. -> uint8 [h, w], upright.

    Raises:
        DataError: the file cannot be read, is too large, is not 8-bit grey, or is a JPEG, whose
            compression changes labels.
    """
    modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    return _grey(_decode(path, LOSSLESS, modes, "8-bit grey"), path)


def read_binary_mask(path):
    """Reads a mask of two classes, PNG, TIFF, GIF or JPEG, in 0 and 255, 0 and 1, or soft edges.

    Returns:
        uint8 [h, w], 0 and 1, upright.

    Raises:
        DataError: the file cannot be read, is too large, is not 8-bit grey, or
            `label_values.foreground` refuses its values.
    """
    modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    mask = _grey(_decode(path, tuple(SIGNATURES), modes, "8-bit grey"), path)
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


def _decode(path, kinds, modes, wanted):
    """Decodes an image file of one frame, and turns it upright as its orientation tag says.

    Args:
        kinds: those of SIGNATURES that it may be.
        modes: Pillow's modes that the file may have -> the mode that each is converted to.
        wanted: these modes, in words.

    Returns:
        Picture: uint8 [h, w] or [h, w, 3], or uint16 [h, w].
    """
    kind = ", ".join(kinds[:-1]) + " or " * (len(kinds) > 1) + kinds[-1]
    try:
        with open_to_read(path) as file:
            size, found = _check_file(path, file, kinds)
            kind = found or kind
            with Image.open(file, formats=kinds) as image:
                check_memory(path, image.size, *HELD)
                if image.format == "TIFF":  # a tile may be larger than its image
                    check_memory(path, [image.tag_v2.get(tag, 1) for tag in TILE], *HELD)
                if math.prod(image.size) > size * DENSEST:
                    raise ValueError(f"its {size} bytes hold no {image.width} x {image.height}")
                mode = image.mode
                deep = mode in SIXTEEN_BITS and mode in modes
                if not deep and "16" in str(image.tile[0].args):  # Pillow would drop 8 bits
                    mode = f"{mode}, 16-bit"
                elif _has_more_frames(image):
                    mode = f"{mode}, of several frames"
                if mode in modes:
                    return _upright(image, modes[mode])
    except DataError:
        raise
    except UnidentifiedImageError:
        raise unreadable(path, f"a {kind} image", "it does not begin as one") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, zlib.error, ... on bad files
        raise unreadable(path, f"a {kind} image", error) from error
    raise DataError(f"{path} is not {wanted} but mode {mode}: convert it to {wanted}")


def _check_file(path, file, kinds):
    """Checks what is read before Pillow knows a size. -> (bytes of the file, its kind or None)."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_PICTURE:
        raise DataError(f"{path} has {size} bytes, above the limit of {MAX_PICTURE}: save it anew")
    begin = file.read(8)
    file.seek(0)
    kind = next((name for name, known in SIGNATURES.items() if begin.startswith(known)), None)
    if kind and kind not in kinds:
        raise DataError(
            f"{path} is a {kind} by its content, and this takes {', '.join(kinds)}: convert it"
            + (" from the original, since JPEG changes values" if kind == "JPEG" else "")
        )
    if kind == "JPEG" and file.read().count(b"\xff\xda") > MAX_SCANS:
        raise DataError(
            f"{path} has more scans than the limit of {MAX_SCANS}: save it without progression"
        )
    file.seek(0)
    return size, kind


def _has_more_frames(image):
    if image.format == "TIFF":  # counting them would follow the whole chain of a made-up file
        return bool(image.tag_v2.next)
    return getattr(image, "is_animated", False)


def _upright(image, mode):
    """The Picture of an open image in a mode of Pillow's."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    turned = tags.get(ORIENTATION, 1)  # Pillow turns a TIFF itself, and takes the tag away
    pixels = np.asarray(image.convert(mode))
    if mode in SIXTEEN_BITS:
        pixels = pixels.astype(np.uint16)
        if tags.get(0x0106) == 0:  # white is 0, which Pillow sees to with 8 bits only
            pixels = 65535 - pixels
    if image.format != "TIFF":
        turned = image.getexif().get(ORIENTATION, 1)
        pixels = np.ascontiguousarray(UPRIGHT.get(turned, np.asarray)(pixels))
    if turned not in UPRIGHT:
        return Picture(pixels)
    return Picture(pixels, (f"turned upright by its orientation tag {turned}",))


def _grey(picture, path):
    """The pixels of a Picture: [h, w, 3] with equal channels as [h, w]; [h, w] as it is."""
    pixels = picture.pixels
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
