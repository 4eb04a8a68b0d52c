"""TFDS builder of LIDC-IDRI CT slices with lung and nodule masks.

Source folder, of any size:

    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_slice_0042.png           CT, 8-bit grey
    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_combined_mask_0042.npy   0, lung 1, nodule 2
    {train,test}/{with_nodules,clean}/LIDC-IDRI-0001_lung_mask_0042.npy       0, lung 1

A slice with both masks uses the combined one. Masks may also be .png. An optional third folder,
val/, is the validation split; without it, whole patients of train/ are held out. Hidden files and
anything else beside these folders are ignored.

Slices are resized to stored_size x stored_size: the CT bilinearly, the mask by `mask_resize`. A
slice that is not square is stretched, as in the published system.
"""

import dataclasses
import re
from pathlib import PurePath
from typing import ClassVar, NamedTuple

import numpy as np

from input_pipeline.preparation import builder
from input_pipeline.preparation.builder import Found, Pixels
from input_pipeline.preparation.pairs import Pair
from input_pipeline.preparation.patient_names import Names, patient_of
from input_pipeline.preparation.patients import check_one_split_each, split
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.hounsfield import check_grey
from jax_pix2pix.imaging.safe_io import check_same_size, read_grey_png, read_mask
from jax_pix2pix.imaging.slices import resize, stored_mask

CLASSES = ("with_nodules", "clean")
SALT = "lidc_masks"
NAME = re.compile(
    r"(?P<patient>\w[\w.-]*?)_((?P<slice>slice)|(?P<mask>combined|lung)_mask)_(?P<index>\d+)"
    r"\.(?(mask)(npy|png)|png)",
    re.IGNORECASE,
)


class Slice(NamedTuple):
    patient: str
    slice_index: int
    label: str  # one of CLASSES
    file_name: str  # of the CT, relative to the source folder
    mask_name: str


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(builder.Config):
    mask_resize: str = "nearest"  # keeps classes; "bilinear", antialiased, is as published
    mask_values: tuple = (0, 1, 2)  # values on disk of class 0, 1, ...
    # Matches PATIENT of PATIENT_slice_0001; group 1 is the patient. 00000003_001 is of 00000003.
    patient_pattern: str = r"(\d+(?=[_-]\d+$)|.+)"
    validation_fraction: float = 0.1  # of the patients of train/, where there is no val/

    def __post_init__(self):
        super().__post_init__()
        values = self.mask_values
        if self.mask_resize not in ("nearest", "bilinear"):
            raise DataError(f'mask_resize is "{self.mask_resize}": use nearest or bilinear')
        if len(set(values)) != len(values) or len(values) < 2 or not set(values) <= set(range(256)):
            raise DataError(f"mask_values is {values}: use two or more distinct values in 0 to 255")
        self.check_pattern("patient_pattern")
        self.check_fractions("validation_fraction")


class Builder(builder.Builder):
    """DatasetBuilder of lidc_masks; `input_pipeline.prepare` runs it."""

    description = "CT slices of the chest with masks of lungs and nodules."
    arrays: ClassVar = {
        "image": Pixels(np.uint8, "CT"),
        "mask": Pixels(np.uint8, "254 * class / (classes - 1), so x / 127 - 1 is in [-1, 1]"),
    }

    # Lungs may reach the edge of a slice, where no body is around them.
    pair = Pair("mask", is_mask=True, must_overlap=False)

    def read(self, source, group):
        (item,) = group
        config = self.builder_config
        image = read_grey_png(source / item.file_name)
        check_grey(image, source / item.file_name)
        mask_path = source / item.mask_name
        mask = read_mask(mask_path)
        check_same_size(image, source / item.file_name, mask, mask_path)
        return [
            {
                "image": resize(image, config.stored_size, "bilinear")[..., None],
                "mask": stored_mask(
                    mask, mask_path, config.mask_values, config.stored_size, config.mask_resize
                ),
                "spacing_mm": (0.0, 0.0, 0.0),
            }
        ]


def find(source, config):
    """Lists and pairs the files of a source folder, and splits them. Decodes nothing.

    Returns:
        Found, with items of Slice.

    Raises:
        DataError: a file is misnamed, unpaired, empty or a link to elsewhere; a patient is in two
            splits; or a split is empty.
    """
    folder = SourceFolder(source)
    splits = {}
    for name in ("train", "val", "test"):
        path = folder.root / name
        if name == "val" and not path.exists():
            continue
        if not path.is_dir():
            raise DataError(f"{path} is not a folder: --source must hold train/ and test/")
        splits[name] = []
        for entry in folder.entries(path):
            if entry.name not in CLASSES or not entry.is_dir():
                raise DataError(f"{entry.path} is none of {'/, '.join(CLASSES)}/: move it away")
            splits[name] += _pairs(folder, entry, config.patient_pattern)
        if not splits[name]:
            raise DataError(f"{path} holds no slices: add some")
        splits[name].sort(key=lambda item: item[:4])
        _check_each_slice_once(folder.root, splits[name])
    check_one_split_each(splits, folder.root)
    if "val" in splits:
        splits["validation"] = splits.pop("val")
    splits, notes = split(splits, config, SALT)
    names = Names(config.patient_pattern, of_slices=True)
    return Found(splits, folder.fingerprint, notes, folder.account(), names)


def _check_each_slice_once(root, items):
    """Raises DataError if two classes hold the same slice."""
    seen = {}
    for item in items:
        before, _, _ = PurePath(item.file_name).name.rpartition("_slice_")
        other = seen.setdefault((before, item.slice_index), item)
        if other is not item:
            raise DataError(
                f"{root / item.file_name} and {root / other.file_name} are the same slice: remove "
                "one"
            )


def _pairs(folder, class_folder, pattern):
    """The slices of one class, each with its mask."""
    slices, masks = {}, {"lung": {}, "combined": {}}
    for entry in folder.entries(class_folder.path):
        match = NAME.fullmatch(entry.name)
        if not match:
            raise DataError(
                f"{entry.path} does not follow PATIENT_slice_0001.png, PATIENT_lung_mask_0001.npy "
                "or PATIENT_combined_mask_0001.npy: rename or remove it"
            )
        name = folder.add(entry)
        table = masks[match["mask"].lower()] if match["mask"] else slices
        key = match["patient"], int(match["index"])
        if key in table:
            raise DataError(f"{entry.path} and {folder.root / table[key]} are the same: remove one")
        table[key] = name
    for key in masks["lung"].keys() & masks["combined"].keys():
        folder.leave_out(masks["lung"][key], "a lung mask beside a combined one")
    masks = masks["lung"] | masks["combined"]
    unpaired = slices.keys() ^ masks.keys()
    if unpaired:
        key = min(unpaired)
        missing = "mask" if key in slices else "slice"
        path = folder.root / (slices | masks)[key]
        raise DataError(f"{path} has no {missing} beside it: add the {missing} or remove the file")
    return [
        Slice(
            patient_of(re.match(pattern, key[0]), pattern, folder.root / name),
            key[1],
            class_folder.name,
            name,
            masks[key],
        )
        for key, name in slices.items()
    ]
