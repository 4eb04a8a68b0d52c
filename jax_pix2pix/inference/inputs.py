"""Finds the inputs of each kind of run in a folder, and the paths of their results.

Nothing is decoded, so that unfit inputs are refused before a run is opened. What finds inputs
returns ([(path of an input, path of its result)], Account of the folder or None), see `files`.
"""

import functools
import os

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_file, xrays
from jax_pix2pix.imaging.folder_files import ARRAY, PICTURE, SERIES, VOLUME
from jax_pix2pix.imaging.safe_io import PICTURES
from jax_pix2pix.inference.files import find, results

# Folders of X-rays' masks in the layouts that preparation reads.
LABELS = {"labelstr", "labelsts", "seg-lungs-luna16"}  # folders of volumes of labels
MASKS = {"mask", "masks", "manualmask"}
MASKS |= {f"{side}{space}lung" for side in ("left", "right") for space in " _"}
CTS = {"b", "trainb", "valb", "testb"}  # folders of CT pictures in these layouts
SYNTHRAD = {"mr", "cbct", "ct", "mask", "sct"}  # the names of a patient's volumes


def xray_pictures(source, output):
    """Finds X-rays, and the paths of their masks.

    Raises:
        DataError: there are no X-rays; or as `files.find` and `files.results`.
    """
    inputs = find(source, output, xrays.KINDS, functools.partial(_no_picture, MASKS, "a mask"))
    if not inputs.names:
        raise DataError(
            f"{source} is no X-ray and holds none: this run takes {xrays.ENDINGS}, or a folder of "
            "them"
        )
    return results(source, output, inputs, (".png",), _as_png), inputs.account


def ct_volumes(source, output):
    """Finds volumes and folders of DICOM series, and the paths of their masks.

    Raises:
        DataError: there are none; or as `files.find` and `files.results`.
    """
    inputs = find(source, output, (VOLUME, SERIES), _of_labels)
    if not inputs.names:
        raise DataError(
            f"{source} is no CT volume and holds none: this run takes "
            f"{', '.join(volume_file.ENDINGS)}, the folder of a DICOM series, or a folder of them"
        )
    own = os.path.basename(os.path.realpath(source))  # names the mask of a series
    named = functools.partial(_mask_name, own=own)
    return results(source, output, inputs, volume_file.ENDINGS, named), inputs.account


def label_masks(source, output):
    """Finds masks of classes, .npy and .png, and the paths of their CT slices.

    CT slices beside the masks, with `_slice_` in their names as for preparation, are passed over.

    Raises:
        DataError: there are no masks; or as `files.find` and `files.results`.
    """

    def passed(name):
        if "_slice_" in name.lower():
            return "a CT slice"
        return "" if name.lower().endswith((".npy", ".png")) else "a picture, and no PNG"

    inputs = find(source, output, (ARRAY, PICTURE), passed)
    if not inputs.names:
        raise DataError(f"{source}: holds no .npy and no .png masks")
    return results(source, output, inputs, (".png",), _as_png), inputs.account


def is_picture_input(source, output):
    """Tells whether the source is a picture, or a folder with pictures and without volumes.

    Raises DataError, as `files.find` does.
    """
    names = find(source, output, (PICTURE, VOLUME), _gif).names
    return bool(names) and all(name.lower().endswith(PICTURES) for name in names)


def mr_pictures(source, output):
    """Finds pictures of MR, and the paths of their synthetic CTs.

    Raises:
        DataError: all pictures are of CTs; or as `files.find` and `files.results`.
    """
    inputs = find(source, output, (PICTURE,), functools.partial(_no_picture, CTS, "a CT"))
    if not inputs.names:
        raise DataError(f"{source} holds pictures in B, testB, trainB, valB only: give the MR's")
    return results(source, output, inputs, (".png",), _as_png), inputs.account


def mr_volumes(source, output, modality, others=()):
    """Finds source volumes, and the paths of their synthetic CTs.

    Args:
        modality: "mr", "cbct" or "ct".
        others: paths of other inputs, or None.

    Raises:
        DataError: there are no volumes of the modality; or as `files.find` and `files.results`.
    """

    def passed(name):
        other = name.lower().endswith(volume_file.ENDINGS) and stem(name) in SYNTHRAD - {modality}
        return "a volume of the patient that is no source" if other else ""

    inputs = find(source, output, (VOLUME,), passed)
    if not inputs.names:
        raise DataError(
            f"{source} is no volume and holds none of {modality.upper()}: this run takes "
            f"{', '.join(volume_file.ENDINGS)}, pictures (.png, .jpg, .tif), or a folder of them"
        )
    named = functools.partial(_sct_name, modality=modality)
    return results(source, output, inputs, volume_file.ENDINGS, named, others), inputs.account


def stem(name):
    """Extracts a volume's name, in lower case and without the ending, from its path."""
    return os.path.basename(volume_file.without_ending(name)).lower()


def _no_picture(folders, what, name):
    """What a file is below one of these folders, whose names are in lower case; or if it is a GIF.

    "" for others, which are pictures to predict from.
    """
    return what if folders & set(name.lower().split(os.sep)[:-1]) else _gif(name)


def _gif(name):
    """Why a GIF is passed over; "" for other files."""
    return "a GIF, which is read as a mask only" if name.lower().endswith(".gif") else ""


def _of_labels(name):
    """Tells whether a file below a folder holds labels, in the layouts that preparation reads."""
    folder, name = os.path.split(name.lower())
    of_layout = name.startswith("segmentation-") or os.path.basename(folder) in LABELS
    return "labels" if of_layout else ""


def _as_png(name):
    return f"{os.path.splitext(name)[0]}.png"


def _mask_name(name, own):
    """The name of a volume's mask, or of that of a series in the folder NAME, as NAME.nii.gz."""
    folder, name = os.path.split(own if name == "." else name)
    if name.lower().endswith(volume_file.ENDINGS):
        name = volume_file.without_ending(name)
    if name.lower().startswith("volume-"):
        name = f"prediction-{name[len('volume-') :]}"
    return os.path.join(folder, f"{name}.nii.gz")


def _sct_name(name, modality):
    if stem(name) != modality:
        return name
    return os.path.join(
        os.path.dirname(name), "sct" + name[len(volume_file.without_ending(name)) :]
    )
