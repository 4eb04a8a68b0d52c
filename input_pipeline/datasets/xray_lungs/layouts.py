"""The layouts of published sets of chest X-rays with lung masks on disk. No TensorFlow.

Images are PNG, JPEG, TIFF or DICOM, masks any picture. Nothing is decoded. Anything beside the
folders of a layout is passed over.
"""

import os
from typing import NamedTuple

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.folder_files import BY_ENDING, DICOM, JSRT, PICTURE, kind_of

IMAGES, MASKS = (PICTURE, DICOM), (PICTURE,)


class Xray(NamedTuple):
    file_name: str  # relative to the source folder, like all names here
    mask_names: tuple  # one mask, or one per lung


def find_xrays(folder):
    """Recognises the layout of a source folder and pairs its images with their masks.

    Returns:
        (name of the layout, [Xray], number of images left out because they have no mask).

    Raises:
        DataError: none or several layouts fit; a file is misnamed, unpaired, empty or a link to
            elsewhere; or there is no image.
    """
    fitting = [name for name, (fits, _) in LAYOUTS.items() if fits(folder.root)]
    if len(fitting) != 1:
        what = " and as ".join(fitting) if fitting else "none of the known layouts"
        raise DataError(
            f"{folder.root} is laid out as {what}: give one of img/ and mask/; CXR_png/ and "
            "ManualMask/ (Montgomery); CXR_png/ and mask/ (Shenzhen); *.IMG and fold1/, fold2/ "
            "(JSRT and SCR)"
        )
    (name,) = fitting
    xrays, left_out = LAYOUTS[name][1](folder)
    if not xrays:
        raise DataError(f"{folder.root} holds no X-rays with masks: add some")
    return name, xrays, left_out


# One function per layout, which returns ([Xray], number of images left out).


def _img_mask(folder):
    images = _files(folder, folder.root / "img", IMAGES)
    return _paired(folder, images, {"mask": _files(folder, folder.root / "mask", MASKS)}), 0


def _montgomery(folder):
    images = _files(folder, folder.root / "CXR_png", IMAGES)
    masks = {
        f"{side} mask": _files(folder, folder.root / "ManualMask" / f"{side}Mask", MASKS)
        for side in ("left", "right")
    }
    return _paired(folder, images, masks), 0


def _shenzhen(folder):
    """Shenzhen: 566 of its 662 images have a mask."""
    images = _files(folder, folder.root / "CXR_png", IMAGES)
    masks = _files(folder, folder.root / "mask", MASKS, tail="_mask")
    for stem in images.keys() - masks.keys():
        folder.leave_out(images[stem], "an image without a mask")
    with_mask = {stem: name for stem, name in images.items() if stem in masks}
    return _paired(folder, with_mask, {"mask": masks}), len(images) - len(with_mask)


def _jsrt(folder):
    images, masks = {}, {"left mask": {}, "right mask": {}}
    for place in _img_folders(folder.root):
        images = _files(folder, place, (JSRT,), images, others=True)
    for archive in ("", "scratch"):  # SCR's archive unpacks into "scratch"
        for fold in ("", "fold1/masks", "fold2/masks"):
            for side in ("left", "right"):
                for space in (" ", "_"):
                    place = folder.root / archive / fold / f"{side}{space}lung"
                    if place.is_dir():
                        _files(folder, place, MASKS, masks[f"{side} mask"])
    return _paired(folder, images, masks), 0


def _img_folders(root):
    """The root and the folder of JSRT's archive: those of the two that hold an .IMG file."""
    places = [place for place in (root, root / "All247images") if place.is_dir()]
    return [
        place
        for place in places
        if any(name.lower().endswith(".img") and name[0] != "." for name in os.listdir(place))
    ]


def _has(*names):
    return lambda root: all((root / name).is_dir() for name in names)


LAYOUTS = {  # (whether a root has the layout, what lists such a SourceFolder)
    "img_mask": (_has("img", "mask"), _img_mask),
    "montgomery": (_has("CXR_png", "ManualMask"), _montgomery),
    "shenzhen": (_has("CXR_png", "mask"), _shenzhen),
    "jsrt": (_img_folders, _jsrt),
}


def _files(folder, place, kinds, table=None, tail="", others=False):
    """Adds a folder's files, called NAME<tail>.ending, to a table {NAME, whatever its case: name}.

    Args:
        kinds: of `folder_files`, that the files are.
        others: whether there may be other files, which are passed over.

    Returns:
        The table, a new one if None was given.
    """
    table = {} if table is None else table
    if not place.is_dir():
        raise DataError(f"{place} is not a folder: the layout needs it")
    for entry in folder.entries(place):
        kind, stem = kind_of(entry.path)[0], stem_of(entry.name).casefold()
        if kind not in kinds or not stem.removesuffix(tail) or not stem.endswith(tail):
            if others:
                continue
            wanted = f"NAME{tail}.png" + ", .jpg, .tif or DICOM" * (DICOM in kinds)
            raise DataError(f"{entry.path} is not called {wanted}: rename, convert or remove it")
        stem, name = stem.removesuffix(tail), folder.add(entry)
        if stem in table:
            raise DataError(
                f"{entry.path} and {folder.root / table[stem]} are the same: remove one"
            )
        table[stem] = name
    return table


def stem_of(name):
    """The name of an image without its folder and ending; DICOM files may have no ending."""
    name = os.path.basename(name)
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in BY_ENDING else name


def _paired(folder, images, masks):
    """[Xray] from a table of images and {mask's kind: table of masks}, of equal stems."""
    for what, table in masks.items():
        for stem in sorted(images.keys() ^ table.keys()):
            missing = what if stem in images else "image"
            path = folder.root / (images | table)[stem]
            raise DataError(f"{path} has no {missing}: add the {missing} or remove the file")
    return [
        Xray(name, tuple(table[stem] for table in masks.values())) for stem, name in images.items()
    ]
