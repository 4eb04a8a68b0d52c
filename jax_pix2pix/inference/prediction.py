"""Holds the result of a run: its values, where they lie, and what they were made from."""

import dataclasses
import io
import os

import numpy as np

from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.formats import nifti
from jax_pix2pix.imaging.volume import Geometry, Volume
from jax_pix2pix.inference.files import replacing
from jax_pix2pix.runs.stores.storage import is_remote
from jax_pix2pix.safety.paths import expanded

HU, LABEL, GREY = "HU", "label", "grey"  # units
SHOWN = (2, 98)  # percentiles of a source that are black and white in a picture
LUNG_HU = (-1350, 150)  # level -600, width 1500; for samples of a chest
SOFT_HU = (-160, 240)  # level 40, width 400
LEAST_SIDE = 256  # pixels of a panel
MOST_DEVIATION = 0.5  # of a probability's standard deviation; white in a picture of it


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """A result of `Run.predict` or `Run.sample`.

    Attributes:
        values: int16 HU, uint8 labels or uint8 grey levels. A volume is [slices, rows, columns],
            from feet to head, front to back and the patient's right to left; a picture is [rows,
            columns].
        unit: "HU", "label" or "grey".
        geometry: where the voxels of a volume are; None for a picture.
        source: the input on the same voxels, in HU, grey levels or as it is stored; None for a
            sample.
        body: uint8, 1 in the body by which an MR was scaled, on the same voxels; None without one.
        body_from: where the body comes from, in words.
        uncertainty: float32 standard deviation of the foreground's probability over the passes of
            Monte Carlo dropout, on the same voxels; None without it.
        highest_label: of a mask, whose 8-bit picture spreads the labels over 0 to 255.
        notes: in words how the source was read, where that is not plain, and what looks wrong with
            the values; with what had to be settled about where its voxels are.
        told: those of the notes that were told as the source was read.
    """

    values: np.ndarray
    unit: str
    geometry: Geometry | None = None
    source: np.ndarray | None = None
    body: np.ndarray | None = None
    body_from: str | None = None
    uncertainty: np.ndarray | None = None
    highest_label: int = 1
    notes: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def spacing_mm(self):
        """Millimetres between slices, rows and columns of a volume; None where it is unknown."""
        return self.geometry.spacing_mm if self.geometry else None

    def save(self, path, below=None):
        """Writes the values; an uncertainty goes into NAME_uncertainty beside them.

        Args:
            path: NAME.nii.gz, .nii, .mha, .mhd or .nrrd for a volume, whose geometry is kept bit
                for bit in the source's own format; NAME.png for a picture. Folders are made. The
                file appears complete and replaces an earlier one.
            below: the folder of results, if there is one: no link is followed below it.

        Returns:
            The paths that were written.

        Raises:
            DataError: the name has another ending.
            OSError: the file cannot be written, or a folder below `below` is a link.
        """
        path = expanded(path)
        if is_remote(path):
            raise DataError(f"{path} is in a store: save to a folder, and copy it there")
        if self.geometry is None:
            if not path.lower().endswith(".png"):
                raise DataError(f"{path} must end in .png: a picture is saved without loss")
            scale = np.uint8(255 // self.highest_label) if self.unit == LABEL else np.uint8(1)
            return self._save_pictures(path, self.values * scale, below)
        write = volume_file.write_hu if self.unit == HU else volume_file.write_mask
        name = volume_file.without_ending(path)
        with replacing(path, below) as temporary:
            write(temporary, self.values, Volume(self.values, self.geometry))
        if self.uncertainty is None:
            return [path]
        beside = f"{name}_uncertainty{path[len(name) :]}"
        with replacing(beside, below) as temporary:
            volume_file.write_map(temporary, self.uncertainty, Volume(self.values, self.geometry))
        return [path, beside]

    def _save_pictures(self, path, pixels, below):
        from PIL import Image

        pictures = {path: pixels}
        if self.uncertainty is not None:
            values = np.rint(self.uncertainty * (65535 / MOST_DEVIATION))
            name, ending = os.path.splitext(path)
            pictures[f"{name}_uncertainty{ending}"] = values.astype(np.uint16)
        for name, values in pictures.items():
            with replacing(name, below) as temporary:
                Image.fromarray(values).save(temporary)
        return list(pictures)

    def to_nibabel(self):
        """Makes a nibabel.Nifti1Image of the values, with the axes and the affine of the source.

        Raises:
            ConfigError: the prediction is a picture, which has no affine.
        """
        import nibabel as nib

        if self.geometry is None:
            raise ConfigError("a picture has no affine: take its values, or save it as PNG")
        voxels = np.ascontiguousarray(self.geometry.to_file(self.values))
        header = nifti.scanner_header(self.geometry.affine, voxels.shape)
        header.set_data_dtype(voxels.dtype)
        nifti.mark_unknown(header, self.geometry)
        return nib.Nifti1Image(voxels, self.geometry.affine, header)

    def picture(self, number=None):
        """Draws the source beside the values, for a volume in one axial slice. -> PIL image.

        Args:
            number: of the slice, from the feet. The default is the slice that shows most of the
                body or the labels, the middle one of several; without these, the middle slice.
        """
        from jax_pix2pix.imaging.pictures import grid, outlined

        values, source, body = self.values, self.source, self.body
        if self.geometry is not None:
            held = body if body is not None else values if self.unit == LABEL else None
            if number is None:
                number = _fullest(held) if held is not None else len(values) // 2
            if not 0 <= number < len(values):
                raise ConfigError(f"number={number}: use 0 to {len(values) - 1}")
            values = values[number]
            source = None if source is None else source[number]
        side = max(LEAST_SIDE, min(max(values.shape), 512))
        panels = {}
        if source is not None:
            in_hu = self.unit == LABEL and self.geometry is not None  # masks of CT
            window = SOFT_HU if in_hu else np.percentile(source, SHOWN)
            panels["source"] = _square(_to_grey(source, window))
        if self.unit == LABEL:
            shown = panels.get("source", np.zeros_like(_square(values), np.float32))
            masks = [
                _square(values == label, fill=False) for label in range(1, self.highest_label + 1)
            ]
            panels["predicted"] = outlined(shown, [], masks, side)
        elif self.unit == HU:
            low, high = SOFT_HU if source is not None else LUNG_HU
            panels[f"{low} to {high} HU"] = _square(_to_grey(values, (low, high)))
        else:
            panels["predicted"] = _square(_to_grey(values, (0, 255)))
        return grid([list(panels.values())], list(panels), side=side)

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.picture().save(buffer, "png")
        return buffer.getvalue()


def _fullest(held):
    """Finds the number of the slice that holds most of a mask, the middle one of several."""
    area = (held > 0).reshape(len(held), -1).sum(1)
    most = np.flatnonzero(area == area.max())
    return int(most[len(most) // 2])


def _to_grey(values, window):
    """Maps a window to [-1, 1] and clips values beyond it; the window may have no width."""
    low, high = map(float, window)
    return np.clip((np.asarray(values, np.float32) - low) / max(high - low, 1e-6) * 2 - 1, -1, 1)


def _square(plane, fill=None):
    """Centres a plane in a square, of its lowest value by default, so that nothing is stretched."""
    side = max(plane.shape[:2])
    rows, columns = ((side - length) // 2 for length in plane.shape[:2])
    square = np.full((side, side), plane.min() if fill is None else fill, plane.dtype)
    square[rows : rows + plane.shape[0], columns : columns + plane.shape[1]] = plane
    return square
