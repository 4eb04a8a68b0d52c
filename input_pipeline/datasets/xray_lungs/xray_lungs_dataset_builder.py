"""TFDS builder of chest X-rays with masks of the lungs.

The source folder has one of four layouts, which is recognised:

    img/NAME.png (.jpg, .tif, DICOM)        mask/NAME.png
    CXR_png/NAME.png                        ManualMask/{leftMask,rightMask}/NAME.png    Montgomery
    CXR_png/NAME.png                        mask/NAME_mask.png                          Shenzhen
    NAME.IMG                                fold{1,2}/masks/{left,right} lung/NAME.gif  JSRT, SCR

Images of Shenzhen without a mask are left out. JSRT's images may be in All247images/ and SCR's
masks in scratch/, as their archives unpack, or in left_lung/ and right_lung/.

Images may be PNG, JPEG, TIFF or DICOM (CR, DX), 8-bit grey or colour, or 16-bit grey; what the
name of a picture ends in decides nothing. DICOM is shown by its first window, and MONOCHROME1 is
inverted. Where there is no window, and in pictures of 16 bits, the percentiles 0.5 and 99.5 of the
image become black and white. The tag of orientation that cameras and viewers write turns image and
mask, each by its own. Notes in the record tell which of these the source has. JSRT's
12-bit values rise with the film's blackness, so its lungs are bright. They are inverted, so that
bone is white as in the other sets, and scaled to 8 bits. A mask's values above 127 are lung. The
masks of both lungs are united.

X-rays are resized to stored_size x stored_size: the image bilinearly with antialiasing, the mask to
the nearest pixel. An X-ray that is not square is stretched, as in the published system. Stretching
a prediction back is exact, where cropping would lose pixels. The spacing of both axes is stored.
"""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from input_pipeline.datasets.xray_lungs.layouts import find_xrays, stem_of
from input_pipeline.preparation import builder
from input_pipeline.preparation.builder import Found, Pixels
from input_pipeline.preparation.pairs import Pair
from input_pipeline.preparation.patient_names import PATIENT, Names, patient_of
from input_pipeline.preparation.patients import split
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.safe_io import check_same_size, read_binary_mask
from jax_pix2pix.imaging.slices import resize
from jax_pix2pix.imaging.xrays import read_xray, reading_notes, stored_image

SALT = "xray_lungs"
VIEW = re.compile(r".*_view_(\d+)")  # of several pictures of one patient
NAMED_BY_US = ("img_mask",)  # layouts whose users name files; the others have known names
PIXEL_MM = {"montgomery": 0.0875, "jsrt": 0.175}  # before resizing; unknown for the others


class Image(NamedTuple):
    patient: str
    slice_index: int  # the number of VIEW, else 0
    label: str  # the layout
    file_name: str
    mask_names: tuple  # united


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(builder.Config):
    stored_size: int = 512
    source_channels: int = 1  # 1: colours become grey by ITU-R 601; 3: grey is repeated
    patient_pattern: str = PATIENT  # matches a file's name without ending; group 1 is the patient
    test_fraction: float = 0.2  # of the patients
    validation_fraction: float = 0.1  # of the patients not in the test

    def __post_init__(self):
        super().__post_init__()
        if self.source_channels not in (1, 3):
            raise DataError(f"source_channels is {self.source_channels}: use 1 or 3")
        self.check_pattern("patient_pattern")
        self.check_fractions("test_fraction", "validation_fraction")


class Builder(builder.Builder):
    """DatasetBuilder of xray_lungs; `input_pipeline.prepare` runs it."""

    description = "Chest X-rays with masks of the lungs."
    unit = "images"
    pair = Pair("mask", is_mask=True, in_body=False)

    def partners(self, item):
        return item.mask_names

    @property
    def arrays(self):
        return {
            "image": Pixels(np.uint8, "X-ray, bone white", self.builder_config.source_channels),
            "mask": Pixels(np.uint8, "1 in the lungs, else 0"),
        }

    def read(self, source, group):
        (item,) = group
        config = self.builder_config
        size = config.stored_size
        path = source / item.file_name
        image = read_xray(path, config.source_channels).pixels
        mask = np.zeros((size, size), np.uint8)
        for name in item.mask_names:
            part = read_binary_mask(source / name)
            if item.label != "jsrt" or part.shape[0] != part.shape[1]:  # SCR's are 1024 x 1024
                check_same_size(image, path, part, source / name)
            mask |= resize(part, size, "nearest")
        rows, columns = image.shape[:2]
        mm = PIXEL_MM.get(item.label, 0.0) / size
        return [
            {
                "image": stored_image(image, size, config.source_channels),
                "mask": mask[..., None],
                "spacing_mm": (0.0, mm * rows, mm * columns),
            }
        ]


def find(source, config):
    """Lists and pairs the files of a source folder, and splits them. Decodes nothing.

    Returns:
        Found, with items of Image.

    Raises:
        DataError: as in `layouts.find_xrays`; patient_pattern does not match a name; or there are
            too few images for three splits.
    """
    folder = SourceFolder(source)
    layout, xrays, left_out = find_xrays(folder)
    items = []
    for xray in xrays:
        stem = stem_of(xray.file_name)
        match = re.match(config.patient_pattern, stem)
        patient = patient_of(match, config.patient_pattern, folder.root / xray.file_name)
        view = VIEW.fullmatch(stem)
        items.append(Image(patient, int(view[1]) if view else 0, layout, *xray))
    items.sort()
    folder.check_three(items, "X-rays with masks")
    splits, notes = split({"train": items}, config, SALT)
    if left_out:
        notes.append(f"{left_out} images without a mask are left out")
    notes += reading_notes([folder.root / item.file_name for item in items])
    names = Names(config.patient_pattern) if layout in NAMED_BY_US else None
    return Found(splits, folder.fingerprint, notes, folder.account(), names)
