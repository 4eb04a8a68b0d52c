"""Finds the inputs of each kind of run in a folder, and the paths of their results.

Nothing is decoded, so that unfit inputs are refused before a run is opened.
"""

import functools
import os

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.formats.dicom_elements import is_dicom
from jax_pix2pix.imaging.safe_io import PICTURES
from jax_pix2pix.imaging.xrays import JSRT
from jax_pix2pix.inference.files import check_apart, check_distinct, find, results
from jax_pix2pix.safety.shown import check_name

MASKS = {"mask", "ManualMask"}  # folders of X-rays' masks in the layouts that preparation reads
CTS = {"B", "trainB", "valB", "testB"}  # folders of CT pictures in these layouts
SYNTHRAD = {"mr", "cbct", "ct", "mask", "sct"}  # the names of a patient's volumes


def xrays(source, output):
    """Finds [(path of an X-ray, path of its mask without an ending)].

    Raises:
        DataError: there are no X-rays, or two would have one result.
    """
    folder, names = find(source, output, (".png", JSRT))
    if os.path.isdir(source):
        names = [name for name in names if not MASKS & set(name.split(os.sep)[:-1])]
    if not names:
        raise DataError(
            f"{source} is no X-ray and holds none: this run takes .png, JSRT's .IMG, or a folder "
            "of them"
        )
    return _in_folder(folder, output, {name: os.path.splitext(name)[0] for name in names})


def ct_volumes(source, output):
    """Finds [(path of a volume or a DICOM series' folder, path of its mask without an ending)].

    Raises:
        DataError: there are no volumes, or two would have one result.
    """
    folder, names = find(source, output, volume_file.ENDINGS)
    if os.path.isdir(source):
        names = [name for name in names if not _is_reference(name)]
        if not names and any(is_dicom(entry) for entry in _files(source)):
            name = os.path.basename(os.path.realpath(source))
            return [(source, os.path.join(output, name))]
    if not names:
        raise DataError(
            f"{source} is no CT volume and holds none: this run takes "
            f"{', '.join(volume_file.ENDINGS)}, a folder of them, or the folder of a DICOM series"
        )
    return _in_folder(folder, output, {name: _mask_name(name) for name in names})


def label_masks(source, output):
    """Finds [(path of a mask of classes, path of its CT slice)].

    The masks are the file, or every .npy below a folder, or without one every .png. CT slices
    beside the masks, with `_slice_` in their names as for preparation, are left out.

    Raises:
        DataError: there are no masks, the results would lie among them, or a name could not be
            shown or written as it is.
    """
    folder, names = _label_masks(source)
    check_apart(folder, output)
    return [
        (os.path.join(folder, name), os.path.join(output, os.path.splitext(name)[0] + ".png"))
        for name in names
    ]


def is_picture_input(source, output):
    """Tells whether the source is a picture, or a folder with pictures and without volumes.

    Raises DataError, as `files.find` does.
    """
    _, names = find(source, output, PICTURES + volume_file.ENDINGS)
    return bool(names) and all(name.lower().endswith(PICTURES) for name in names)


def mr_pictures(source, output):
    """Finds [(path of a picture of MR, path of its synthetic CT)].

    Raises:
        DataError: all pictures are of CTs; or as `files.results`.
    """
    folder, names = find(source, output, PICTURES)
    if os.path.isdir(source):
        names = [name for name in names if not CTS & set(name.split(os.sep)[:-1])]
    if not names:
        raise DataError(f"{source} holds pictures in {', '.join(sorted(CTS))} only: give the MR's")
    paths = results(
        source, output, names, (".png",), lambda name: f"{os.path.splitext(name)[0]}.png"
    )
    return [(os.path.join(folder, name), result) for name, result in paths.items()]


def mr_volumes(source, output, modality, others=()):
    """Finds [(path of a source volume, path of its synthetic CT)].

    Args:
        modality: "mr", "cbct" or "ct".
        others: paths of other inputs, or None.

    Raises:
        DataError: there are no volumes of the modality; or as `files.results`.
    """
    folder, names = find(source, output, volume_file.ENDINGS)
    if os.path.isdir(source):
        names = [name for name in names if stem(name) not in SYNTHRAD - {modality}]
    if not names:
        raise DataError(
            f"{source} is no volume and holds none of {modality.upper()}: this run takes "
            f"{', '.join(volume_file.ENDINGS)}, pictures (.png, .jpg), or a folder of them"
        )
    named = functools.partial(_sct_name, modality=modality)
    paths = results(source, output, names, volume_file.ENDINGS, named, others)
    return [(os.path.join(folder, name), result) for name, result in paths.items()]


def stem(name):
    """Extracts a volume's name, in lower case and without the ending, from its path."""
    return os.path.basename(volume_file.without_ending(name)).lower()


def _in_folder(folder, output, names):
    """Paths of {name: name of its result}, all of which are distinct."""
    if output.lower().endswith((*volume_file.ENDINGS, ".png")):
        raise DataError(f"{output} is the name of a file, and masks go into a folder: give that")
    paths = {name: os.path.join(output, result) for name, result in names.items()}
    check_distinct(paths)
    return [(os.path.join(folder, name), result) for name, result in paths.items()]


def _is_reference(name):
    """Tells whether a file below a folder holds labels, in the layouts that preparation reads."""
    folder, name = os.path.split(name)
    return name.startswith("segmentation-") or os.path.basename(folder) == "labelsTr"


def _files(folder):
    return [entry.path for entry in os.scandir(folder) if entry.is_file()]


def _mask_name(name):
    folder, name = os.path.split(name)
    name = volume_file.without_ending(name)
    if name.startswith("volume-"):
        name = f"prediction-{name.removeprefix('volume-')}"
    return os.path.join(folder, name)


def _label_masks(source):
    """Finds the masks of `label_masks`. -> (folder, names)."""
    if not os.path.isdir(source):
        return os.path.split(source)[0], [os.path.split(source)[1]]
    files = sorted(
        os.path.relpath(os.path.join(folder, name), source)
        for folder, _, names in os.walk(source)
        for name in names
    )
    for ending in (".npy", ".png"):
        if found := [n for n in files if n.lower().endswith(ending) and "_slice_" not in n]:
            for name in found:
                check_name(os.path.join(source, name))
            return source, found
    raise DataError(f"{source}: holds no .npy and no .png masks")


def _sct_name(name, modality):
    if stem(name) != modality:
        return name
    return os.path.join(
        os.path.dirname(name), "sct" + name[len(volume_file.without_ending(name)) :]
    )
