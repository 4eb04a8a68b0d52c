"""What each kind of run finds at --input of `launch.predict`, and where its results lie.

Nothing is decoded, so that what cannot be is refused before a run is opened.
"""

import functools
import os

from input_pipeline.datasets.mri_ct.layouts import PICTURES
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.formats.dicom_lengths import is_dicom
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.xrays import JSRT
from jax_pix2pix.inference.files import check_apart, check_distinct, find, results

MASKS = {"mask", "ManualMask"}  # folders of X-rays' masks in the layouts that preparation takes
CTS = {"B", "trainB", "valB", "testB"}  # folders of pictures of CT in these
SYNTHRAD = {"mr", "cbct", "ct", "mask", "sct"}  # what the volumes of a patient are called


def xrays(source, output):
    """[(path of an X-ray, path of its mask without an ending)].

    Raises:
        DataError: there are none, or two would have one result.
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
    """[(path of a volume, or of the folder of a DICOM series; path of its mask without an ending)].

    Raises:
        DataError: there are none, or two would have one result.
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
    """[(path of a mask of classes, path of its CT slice)].

    It is the file, or every .npy below a folder, or every .png without one. Where masks are .png
    beside CT slices, as preparation takes them, the slices are left out.

    Raises:
        DataError: there are none, or the results would lie among them.
    """
    folder, names = _label_masks(source)
    check_apart(folder, output)
    return [
        (os.path.join(folder, name), os.path.join(output, os.path.splitext(name)[0] + ".png"))
        for name in names
    ]


def are_pictures(source, output):
    """Whether the source is a picture, or a folder with pictures and without volumes.

    Raises DataError, as `predict_files.find` does.
    """
    _, names = find(source, output, PICTURES + volume_file.ENDINGS)
    return bool(names) and all(name.lower().endswith(PICTURES) for name in names)


def mr_pictures(source, output):
    """[(path of a picture of MR, path of its synthetic CT)].

    Raises:
        DataError: there are no pictures but of CTs; or of the results, as `predict_files.results`.
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
    """[(path of a volume of MR or cone beam CT, path of its synthetic CT)].

    Args:
        modality: "mr" or "cbct".
        others: paths, or None, of what else is read.

    Raises:
        DataError: there are none; or of the results, as `predict_files.results`.
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
    """Of a volume's path: its name in lower case, without the ending."""
    return os.path.basename(volume_file.without_ending(name)).lower()


def _in_folder(folder, output, names):
    """Paths of {name: name of its result}, all of which are distinct."""
    paths = {name: os.path.join(output, result) for name, result in names.items()}
    check_distinct(paths)
    return [(os.path.join(folder, name), result) for name, result in paths.items()]


def _is_reference(name):
    """Whether a file below a folder holds labels, in the layouts that preparation takes."""
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
    """-> (folder, names)."""
    if not os.path.isdir(source):
        return os.path.split(source)[0], [os.path.split(source)[1]]
    files = sorted(
        os.path.relpath(os.path.join(folder, name), source)
        for folder, _, names in os.walk(source)
        for name in names
    )
    for ending in (".npy", ".png"):
        if found := [n for n in files if n.lower().endswith(ending) and "_slice_" not in n]:
            return source, found
    raise DataError(f"{source}: holds no .npy and no .png masks")


def _sct_name(name, modality):
    if stem(name) != modality:
        return name
    return os.path.join(
        os.path.dirname(name), "sct" + name[len(volume_file.without_ending(name)) :]
    )
