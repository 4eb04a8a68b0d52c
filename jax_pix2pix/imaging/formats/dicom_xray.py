"""Reads one X-ray, CR or DX, from a DICOM file as it is meant to be viewed. No TensorFlow."""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import xrays
from jax_pix2pix.imaging.formats.dicom import no_warnings, of_a_file
from jax_pix2pix.imaging.formats.dicom_elements import MODALITY, PHOTOMETRIC, plain_image
from jax_pix2pix.imaging.safe_io import Picture

CENTER, WIDTH, FUNCTION = (0x0028, 0x1050), (0x0028, 0x1051), (0x0028, 0x1056)
XRAYS = ("CR", "DX")


def read(path):
    """Reads an X-ray by the first window of its file, or percentiles of its values without one.

    Returns:
        Picture: uint8 [h, w], bone white: a MONOCHROME1 image is inverted, as for viewing.

    Raises:
        DataError: the file cannot be read, or is of another modality.
    """
    path = Path(path)
    with of_a_file(path, "a DICOM X-ray"):
        # ITK would negate MONOCHROME1, and then the window would not be the file's.
        found, content = plain_image(path, instead={PHOTOMETRIC: b"MONOCHROME2"})
        modality = _text(found.get(MODALITY))
        if modality not in XRAYS:
            raise DataError(
                f"{path} is a DICOM file of the modality {modality or 'none'!a}, and X-rays are "
                f"{' and '.join(XRAYS)}: take it out"
            )
        values = _values(content)
    window = _window(found)
    if window:
        low, high = window
        grey = xrays.to_grey(values, low, high)
        notes = [f"DICOM: by its window, of which {low:g} to {high:g} become 0 to 255"]
    else:
        grey = xrays.to_grey(values, *np.percentile(values, xrays.PERCENTILES))
        notes = [f"DICOM without a window: by {xrays.BY_PERCENTILES}"]
    if _text(found.get(PHOTOMETRIC)) == "MONOCHROME1":
        grey = 255 - grey
        notes.append("MONOCHROME1, inverted so that bone is white")
    return Picture(grey, tuple(notes))


def _values(content):
    """Decodes the file that `plain_image` made: float64 [h, w], rescaled."""
    with no_warnings(), tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "xray.dcm")
        copy.write_bytes(content)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(copy))
        reader.SetOutputPixelType(sitk.sitkFloat64)
        values = sitk.GetArrayFromImage(reader.Execute())
    values = values.reshape(values.shape[-2:])
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError("it holds no plane of numbers")
    return values


def _window(found):
    """(low, high) of the first window, which become black and white; None without a sound one."""
    function = _text(found.get(FUNCTION)) or "LINEAR"
    try:
        center, width = (float(_text(found.get(tag)).split("\\")[0]) for tag in (CENTER, WIDTH))
    except ValueError:
        return None
    if not np.isfinite((center, width)).all() or width <= 0:
        return None
    if function == "LINEAR":  # DICOM PS3.3, C.11.2.1.2
        center, width = center - 0.5, max(width - 1, 1)
    return center - width / 2, center + width / 2


def _text(value):
    return (value or b"").decode("latin-1").strip("\0 ")
