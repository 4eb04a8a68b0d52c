"""TFDS builder of pairs of MR, or cone beam CT, and CT, slice by slice, with the body.

Source folder: pictures in pairs or side by side, SynthRAD's folders, or a table of volumes;
`layouts` shows each. The source's own splits are kept; for splits that it lacks, whole patients are
held out. patient_pattern finds a picture's patient in its name or, if the pattern has a "/", in its
path within the source, such as `trainA/0001`; one with a "/" finds that of volumes too, in
`brain/1BA001/mr`. Pictures that are named by numbers alone may have the
same numbers in several splits of the source.

Slices that show some body are stored, at stored_size x stored_size: axial ones from the feet up, or
those of another plane, see `planes.cut`:

    image   uint16. MR: percentiles of the whole volume's values in the body become 0 and 65535.
            Cone beam CT and CT: sixteenths of a HU above -1024. Picture: grey, white as 65535.
    ct      int16 HU, outside of the body too; image_window_hu converts a picture's grey.
    mask    1 in the body: the mask's file; or else the source above Otsu's threshold, with its
            holes filled, and then only the largest component (`body_mask`).

A plane that is not square is centred and padded with air: -1024 HU in the CT, 0 in the image. Then
image and CT are resized bilinearly with antialiasing, and the mask by nearest neighbour.

The volumes of a pair must be on one grid. With `resample`, source and mask are resampled to the
CT's grid: MR and cone beam CT linearly, the mask by nearest neighbour.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import re
from typing import ClassVar, NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.datasets.mri_ct import layouts
from input_pipeline.preparation import builder, geometry
from input_pipeline.preparation.builder import Found, Pixels
from input_pipeline.preparation.pairs import Pair
from input_pipeline.preparation.patient_names import PATIENT_OF_SLICES, Names, patient_of
from input_pipeline.preparation.patients import check_one_split_each, split
from input_pipeline.preparation.source_folder import SourceFolder
from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import mr_pictures, mr_volumes
from jax_pix2pix.imaging.planes import PLANES
from jax_pix2pix.runs.workdir_files import MASKS_NOTE, SOURCES_NOTE

SALT = "mri_ct"
OBLIQUE_DEGREES = 1.0  # a larger tilt is reported


class Plane(NamedTuple):
    patient: str
    slice_index: int  # in a volume; for a picture, the number after its patient, or 0
    label: str  # the folder that holds the patients' folders, such as brain, or ""
    file_name: str  # of the source, relative to the source folder
    pair: layouts.Pictures | layouts.Volumes


@dataclasses.dataclass(kw_only=True, eq=False)
class Config(geometry.Config):
    stored_size: int = 256
    modality: str = "mr"  # or "cbct"; or "ct": the CT is its own source
    plane: str = "axial"  # or "coronal", "sagittal"; volumes only
    mr_percentiles: tuple = (0.5, 99.5)  # of the values in the body
    resample: bool = False  # source and mask to the CT's grid, where theirs is another
    image_window_hu: tuple = (-1024, 3071)  # HU of 0 and 255 in a picture of a CT
    source_side: str = "left"  # or "right": of two pictures side by side
    # Matches a picture's whole name without ending or, if it has a "/", the path within the source,
    # of volumes too. Group 1 is the patient.
    patient_pattern: str = PATIENT_OF_SLICES
    test_fraction: float = 0.15  # of the patients
    validation_fraction: float = 0.1  # of the remaining patients

    def __post_init__(self):
        super().__post_init__()
        if self.modality not in layouts.MODALITIES:
            raise DataError(f'modality is "{self.modality}": use mr, cbct or ct')
        if self.plane not in PLANES:
            raise DataError(f'plane is "{self.plane}": use {", ".join(PLANES)}')
        if self.source_side not in ("left", "right"):
            raise DataError(f'source_side is "{self.source_side}": use left or right')
        self._check_range("mr_percentiles", 0, 100)
        self._check_range("image_window_hu", -32768, 32767)
        self.check_pattern("patient_pattern")
        self.check_fractions("test_fraction", "validation_fraction")

    def _check_range(self, name, least, most):
        values = getattr(self, name)
        if len(values) != 2 or not least <= values[0] < values[1] <= most:
            raise DataError(f"{name} is {values}: use two rising numbers in {least} to {most}")


class Builder(builder.Builder):
    """DatasetBuilder of mri_ct; `input_pipeline.prepare` runs it."""

    description = "Slices of MR or cone beam CT and the CT of the same patient, with the body."
    arrays: ClassVar = {
        "image": Pixels(np.uint16, "MR, percentiles of the body at 0 and 65535; or cone beam CT"),
        "ct": Pixels(np.int16, "CT in Hounsfield units"),
        "mask": Pixels(np.uint8, "1 in the body, else 0"),
    }

    pair = Pair("ct", is_mask=False)

    def partners(self, item):
        return (item.pair.ct,)

    def read(self, source, group):
        pair = group[0].pair
        if isinstance(pair, layouts.Pictures):
            return [mr_pictures.read(source, pair, self.builder_config)]
        slices = [plane.slice_index for plane in group]
        return mr_volumes.read(source, pair, slices, self.builder_config)


def find(source, config):
    """Lists the pairs of a source folder and splits them. Reads headers, then the bodies.

    Returns:
        Found, with items of Plane.

    Raises:
        DataError: as in `layouts.find_pairs`; a header cannot be used; image_window_hu makes no HU
            of pictures; volumes of a pair lie on
            different voxels; a body cannot be read; patient_pattern does not match a name; a
            named patient is in two of the source's splits; or there are too few slices for three
            splits.
    """
    folder = SourceFolder(source)
    pairs = layouts.find_pairs(folder, config.modality, config.patient_pattern)
    geometry.add_table(folder)
    oblique, grids = [], []
    for pair in pairs["train"]:
        if isinstance(pair, layouts.Volumes):
            files = mr_volumes.check(folder.root, pair, config)
            grids.append((pair.patient, files))
            tilt = files["CT"].tilt_degrees
            if tilt > OBLIQUE_DEGREES:
                oblique.append((pair.patient, tilt))
    if isinstance(pairs["train"][0], layouts.Pictures):
        mr_pictures.check_window(folder.root, pairs["train"], config)
    given = {name: _planes(folder.root, pairs[name], config) for name in pairs}
    for name, planes in given.items():
        if not planes:
            raise DataError(f"{folder.root} holds no picture of {name} with a body: add some")
    if given.keys() == {"train"}:
        folder.check_three(given["train"], "slices that show a body")
    splits, notes = _split(folder.root, given, config)
    notes += _same_numbers(given)
    notes += geometry.notes(grids)
    volumes = isinstance(pairs["train"][0], layouts.Volumes)
    notes.append(f"{SOURCES_NOTE}{'volumes' if volumes else 'pictures'}")
    masked = sum(isinstance(pair, layouts.Volumes) and bool(pair.mask) for pair in pairs["train"])
    if masked:
        notes.append(f"{MASKS_NOTE}: {masked} of {len(pairs['train'])}")
    if oblique:
        notes = [*notes, builder.note_oblique(oblique)]
    shown = {plane.file_name for planes in given.values() for plane in planes}
    blank = [pair for part in pairs.values() for pair in part if pair.source not in shown]
    for pair in blank:
        for name in (pair.source, pair.ct):
            folder.leave_out(name, "of a pair that shows no body")
    if blank:
        notes.append(f"{len(blank)} pictures that show no body are left out")
    names = _names(pairs["train"], folder.root, config.patient_pattern)
    by_folder = volumes and not layouts.has_table(folder.root)  # a table names whom it means
    account = folder.account(refuse_series=by_folder)
    return Found(splits, folder.fingerprint, notes, account, names)


def _planes(root, pairs, config):
    """The slices with some body, by patient; several pairs are read at a time."""
    with concurrent.futures.ThreadPoolExecutor(builder.THREADS) as pool:
        found = pool.map(lambda pair: _of_pair(root, pair, config), pairs)
        progress = tqdm(found, total=len(pairs), unit="pairs", disable=None)
        return sorted(plane for planes in progress for plane in planes)


def _of_pair(root, pair, config):
    if isinstance(pair, layouts.Volumes):
        slices = mr_volumes.slices_with_body(root, pair, config)
        return [Plane(pair.patient, k, pair.region, pair.source, pair) for k in slices]
    name = pair.stem
    if "/" in config.patient_pattern:
        name = os.path.splitext(pair.source)[0]
    match = re.fullmatch(config.patient_pattern, name)
    patient = patient_of(match, config.patient_pattern, root / pair.source)
    number = re.search(r"\d{1,9}$", name[match.end(1) :])
    plane = Plane(patient, int(number[0]) if number else 0, "", pair.source, pair)
    return [plane] if mr_pictures.has_body(root, pair, config) else []


def _split(root, given, config):
    """({split: planes}, notes for the user)."""
    named = {
        folder: [plane for plane in planes if not _is_number(plane)]
        for folder, planes in given.items()
    }
    check_one_split_each(named, root)
    names = {"val": "validation"}
    return split({names.get(name, name): planes for name, planes in given.items()}, config, SALT)


def _is_number(plane):
    """Whether a picture's name is a number alone, which names no patient."""
    stem = plane.pair.stem if isinstance(plane.pair, layouts.Pictures) else ""
    return stem.isdecimal() and plane.patient == stem


def _same_numbers(given):
    """Warnings about pictures of several splits with the same numbers, which name no patient."""
    doubts = []
    for one, other in itertools.combinations(given, 2):
        numbers = [{p.patient for p in given[split] if _is_number(p)} for split in (one, other)]
        if shared := len(set.intersection(*numbers)):
            doubts.append(
                f"warning: {shared} pictures of {one} and {other} have the same numbers, which "
                "name no patient: see to it that no patient is in both, or set "
                "config.data.patient_pattern"
            )
    return doubts


def _names(pairs, root, pattern):
    """How patients are known: by pictures' names, by a table, or by folders."""
    if isinstance(pairs[0], layouts.Pictures):
        return Names(pattern, of_slices=True)
    if layouts.has_table(root):
        return None
    return Names(
        settled_by=f"list all in {layouts.TABLE}, columns {','.join(layouts.COLUMNS)}, if they are "
        "two patients; else name both in config.data.test_patients or in validation_patients"
    )
