"""TFDS builder of abdominal CT volumes with labels of liver and tumour.

Source folder, in one of two layouts, at any depth:

    volume-3.nii, segmentation-3.nii                      LiTS; .nii.gz as well
    imagesTr/liver_3.nii.gz, labelsTr/liver_3.nii.gz      Medical Segmentation Decathlon, task 3

Labels are 0 outside, 1 liver and 2 tumour; or 255 for both. Hidden files and files of other names
are ignored.

Every slice is stored, from the feet up, in radiological orientation: the CT as int16 Hounsfield
units, the labels unchanged. A plane that is not square is centred and padded with air. It is then
resized to stored_size x stored_size, the CT with antialiasing, the labels by nearest neighbour.
"""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from input_pipeline.preparation import builder, geometry
from input_pipeline.preparation.builder import Found, Pixels
from input_pipeline.preparation.pairs import Pair
from input_pipeline.preparation.patients import split
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.label_values import numbered
from jax_pix2pix.imaging.planes import stored_image, stored_labels, stored_spacing_mm
from jax_pix2pix.imaging.volume_file import read_ct, read_geometry, read_labels, without_ending

TUMOUR = 2  # 1 is liver
REGIONS = {"liver, with its tumours": (1, TUMOUR)}
SALT = "liver_ct"
LAYOUTS = {  # patterns of "folder/file"
    "LiTS": re.compile(
        r"[^/]*/((?P<labels>segmentation)|volume)-(?P<number>\d+)\.nii(\.gz)?", re.IGNORECASE
    ),
    "MSD": re.compile(
        r"((?P<labels>labels)|images)Tr/liver_(?P<number>\d+)\.nii(\.gz)?", re.IGNORECASE
    ),
}
OBLIQUE_DEGREES = 1.0  # a larger tilt is reported


class Plane(NamedTuple):
    patient: str  # volume-3 or liver_3
    slice_index: int  # from the feet
    label: str  # "": only decoding the labels tells the class
    file_name: str  # of the CT volume, relative to the source folder
    mask_name: str


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(geometry.Config):
    stored_size: int = 160
    test_fraction: float = 0.15  # of the volumes
    validation_fraction: float = 0.1  # of the remaining volumes
    split_by: str = "volume"  # or "slice", as published: every volume is then in every split

    def __post_init__(self):
        super().__post_init__()
        self.check_fractions("test_fraction", "validation_fraction")
        if self.split_by not in ("volume", "slice"):
            raise DataError(f'split_by is "{self.split_by}": use volume or slice')
        if self.split_by == "slice" and (
            self.folds or any(getattr(self, f) for f in builder.LISTS)
        ):
            raise DataError(
                "split_by=slice puts every volume into every split: use split_by=volume with "
                "test_patients, validation_patients or folds"
            )


class Builder(builder.Builder):
    """DatasetBuilder of liver_ct; `input_pipeline.prepare` runs it.

    A thread holds one volume at a time, either its CT or its labels.
    """

    description = "Abdominal CT slices with labels of liver and tumour."
    arrays: ClassVar = {
        "image": Pixels(np.int16, "CT in Hounsfield units"),
        "mask": Pixels(np.uint8, "0 outside, 1 liver, 2 tumour"),
    }

    pair = Pair("mask", is_mask=True)

    def read(self, source, group):
        images, grid = self._images(source, group)
        labels = self._labels(source, group, grid)
        size = self.builder_config.stored_size
        spacing_mm = stored_spacing_mm(grid.spacing_mm, grid.shape[1:], size)
        return [
            {
                "image": image[..., None],
                "mask": label[..., None],
                "spacing_mm": spacing_mm,
                "class": _class(label),
            }
            for image, label in zip(images, labels, strict=True)
        ]

    def _images(self, source, group):
        name, size = group[0].file_name, self.builder_config.stored_size
        volume = read_ct(source / name, self.builder_config.given(source, name))
        images = [stored_image(volume.values[plane.slice_index], size) for plane in group]
        return images, volume.geometry

    def _labels(self, source, group, grid):
        name = group[0].mask_name
        path = source / name
        volume = read_labels(path, self.builder_config.given(source, name))
        values = grid.reordered(source / group[0].file_name, volume, path)
        labels = numbered(values, path, REGIONS)
        size = self.builder_config.stored_size
        return [stored_labels(labels[plane.slice_index], size) for plane in group]


def _class(labels):
    """The class of the stored labels: nearest neighbour may have lost a few pixels."""
    if (labels == TUMOUR).any():
        return "tumour"
    return "liver" if labels.any() else "empty"


def find(source, config):
    """Lists and pairs the volumes of a source folder, and splits them. Reads headers only.

    Returns:
        Found, with items of Plane.

    Raises:
        DataError: there are no volumes, or volumes of both layouts; a file is duplicated, unpaired,
            empty or a link to elsewhere; a header cannot be used; labels are not on the voxels of
            their image; or geometry.csv is invalid.
    """
    folder = SourceFolder(source)
    geometry.add_table(folder)
    planes, oblique, grids = [], [], []
    for patient, image, labels in _pairs(folder):
        grid, of_labels = (
            read_geometry(folder.root / name, config.given(folder.root, name))
            for name in (image, labels)
        )
        grid.check_same_grid(folder.root / image, of_labels, folder.root / labels)
        planes += [Plane(patient, index, "", image, labels) for index in range(grid.shape[0])]
        grids.append((patient, {"CT": grid, "labels": of_labels}))
        if grid.tilt_degrees > OBLIQUE_DEGREES:
            oblique.append((patient, grid.tilt_degrees))
    splits, notes = _split(planes, config)
    notes = [*notes, *geometry.notes(grids)]
    if oblique:
        notes = [*notes, builder.note_oblique(oblique)]
    return Found(splits, folder.fingerprint, notes, folder.account(refuse_series=True))


def _split(planes, config):
    if config.split_by == "volume":
        return split({"train": planes}, config, SALT)
    # Treat each slice as a patient.
    apart = {
        plane._replace(patient=f"{plane.patient}/{plane.slice_index}"): plane for plane in planes
    }
    splits, _ = split({"train": list(apart)}, config, SALT)
    splits = {split: [apart[plane] for plane in chosen] for split, chosen in splits.items()}
    return splits, [
        "warning: splits by slice, as published: neighbours of a test slice are trained on, so "
        "that its scores are no evidence of generalisation"
    ]


def _pairs(folder):
    """(patient, name of the CT, name of its labels) of all volumes, sorted by number."""
    images, labels = {}, {}
    for layout, match, name in _files(folder, folder.root):
        table = labels if match["labels"] else images
        key = layout, int(match["number"])
        if key in table:
            raise DataError(
                f"{folder.root / name} and {folder.root / table[key]} are the same volume: remove "
                "one"
            )
        table[key] = name
    if not images and not labels:
        raise DataError(
            f"{folder.root} holds neither volume-N.nii and segmentation-N.nii nor imagesTr/ and "
            "labelsTr/ with liver_N.nii.gz: --source must hold LiTS or task 3 of the MSD"
        )
    for key in sorted(images.keys() ^ labels.keys()):
        missing = "labels" if key in images else "image"
        path = folder.root / (images | labels)[key]
        raise DataError(f"{path} has no {missing} of its number: add them or remove the file")
    if len({layout for layout, _ in images}) > 1:
        raise DataError(
            f"{folder.root} holds LiTS and task 3 of the MSD, which are the same patients: keep one"
        )
    return [
        (without_ending(Path(images[key]).name), images[key], labels[key]) for key in sorted(images)
    ]


def _files(folder, path):
    """Yields (layout, match of the name, name below the root) of all volumes below a folder."""
    for entry in folder.entries(path):
        if entry.is_dir(follow_symlinks=False):  # a link's target is found in its own place
            yield from _files(folder, entry.path)
        for layout, pattern in LAYOUTS.items():
            match = pattern.fullmatch(f"{Path(path).name}/{entry.name}")
            if match:
                yield layout, match, folder.add(entry)
