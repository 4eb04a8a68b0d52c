"""TFDS builder of chest CT volumes, LUNA16's or any others; `layouts.py` has their layout.

Values are clipped to clip_hu. With isotropic_mm, volumes are resampled to cubic voxels of that
side. An example is then the whole volume, resized to depth x stored_size x stored_size voxels on
aligned corners whatever its aspect; or one of `crops` crops of that shape. The series and the
crop's number decide a crop's place. Where an axis shrinks, resampling is antialiased
(`volume_resizing.py`).

An example is a run of `depth` slices from the feet up, numbered so that no run joins the next. The
CT is int16 HU. With lung_masks, masks are 1 in the lungs, resampled by nearest neighbour.
"""

import collections
import dataclasses
from typing import NamedTuple

import numpy as np

from input_pipeline.datasets.luna16 import layouts, volumes
from input_pipeline.preparation import builder, geometry
from input_pipeline.preparation.builder import Found, Pixels
from input_pipeline.preparation.pairs import Pair
from input_pipeline.preparation.patient_names import Names
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError

OBLIQUE_DEGREES = 1.0  # a larger tilt is reported


class Plane(NamedTuple):
    patient: str
    slice_index: int  # over all examples of the patient, with a gap of one between them
    label: str  # ""
    file_name: str  # of the CT, relative to the source folder
    series: layouts.Series


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(geometry.Config):
    depth: int = 23  # slices of an example
    crops: int = 0  # per volume; 0 stores the whole volume, resized
    isotropic_mm: float = 0.0  # side of the voxels to resample to first; 0 keeps the voxels
    clip_hu: tuple = (-1000, 1000)
    lung_masks: bool = False  # store seg-lungs-LUNA16 as masks
    test_subsets: tuple = (9,)
    validation_subsets: tuple = (8,)
    test_fraction: float = 0.15  # of the patients in no subset
    validation_fraction: float = 0.1  # of those that remain

    def __post_init__(self):
        super().__post_init__()
        for name in ("depth", "stored_size"):
            if getattr(self, name) < 2:
                raise DataError(f"{name} is {getattr(self, name)}: use 2 or more")
        if self.crops < 0:
            raise DataError(f"crops is {self.crops}: use 0 for whole volumes, or their number")
        if self.isotropic_mm and not 0.1 <= self.isotropic_mm <= 50:
            raise DataError(f"isotropic_mm is {self.isotropic_mm}: use 0, or 0.1 to 50")
        low, high = self.clip_hu if len(self.clip_hu) == 2 else (0, 0)
        if not -32768 <= low < high <= 32767:
            raise DataError(f"clip_hu is {self.clip_hu}: use two rising numbers in -32768 to 32767")
        if both := sorted({*self.test_subsets} & {*self.validation_subsets}):
            raise DataError(f"test_subsets and validation_subsets both have {both[0]}: keep one")
        self.check_fractions("test_fraction", "validation_fraction")


class Builder(builder.Builder):
    """DatasetBuilder of luna16; `input_pipeline.prepare` runs it.

    A thread holds one volume at a time; with lung_masks, its CT, its examples and its mask.
    """

    description = "Chest CT volumes, as runs of slices."

    @property
    def arrays(self):
        arrays = {"image": Pixels(np.int16, "CT in Hounsfield units")}
        if self.builder_config.lung_masks:
            arrays["mask"] = Pixels(np.uint8, "1 in the lungs, else 0")
        return arrays

    @property
    def pair(self):
        if self.builder_config.lung_masks:
            return Pair("mask", is_mask=True, must_overlap=False)
        return None

    def partners(self, item):
        return (item.series.mask_name,)

    def read(self, source, group):
        return volumes.read(source, group[0].series, self.builder_config)


def find(source, config):
    """Lists the volumes of a source folder and splits them. Reads headers only.

    Returns:
        Found, with items of Plane.

    Raises:
        DataError: as in `layouts.find_series`, `layouts.split` and `volumes.check`.
    """
    folder = SourceFolder(source)
    found = layouts.find_series(folder, config.lung_masks)
    geometry.add_table(folder)
    oblique, grids = [], []
    for series in found:
        files = volumes.check(folder.root, series, config)
        grids.append((series.patient, files))
        tilt = files["CT"].tilt_degrees
        if tilt > OBLIQUE_DEGREES:
            oblique.append((series.patient, tilt))
    splits, notes = layouts.split(found, config, folder.root)
    notes = [*notes, *geometry.notes(grids)]
    if oblique:
        notes = [*notes, builder.note_oblique(oblique)]
    planes = {name: _planes(chosen, config) for name, chosen in splits.items()}
    names = None
    if not folder.named(layouts.TABLE).exists():
        names = Names(settled_by=f"say who is who in {layouts.TABLE}, columns seriesuid,patient")
    account = folder.account(refuse_series=True)
    return Found(planes, folder.fingerprint, notes, account, names)


def _planes(found, config):
    """The slices of all examples of a split."""
    planes, runs = [], collections.Counter()
    for series in found:
        for _ in range(config.crops or 1):
            start = runs[series.patient] * (config.depth + 1)
            runs[series.patient] += 1
            planes += [
                Plane(series.patient, index, "", series.file_name, series)
                for index in range(start, start + config.depth)
            ]
    return planes
