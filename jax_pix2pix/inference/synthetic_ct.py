"""Makes synthetic CT: in HU of volumes of MR or cone beam CT, in grey levels of pictures of MR."""

import os

import numpy as np

from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import mr_volumes, resample, volume_file
from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.geometry import given as given_by_user
from jax_pix2pix.imaging.hounsfield import check_grey
from jax_pix2pix.imaging.label_values import foreground
from jax_pix2pix.imaging.mr_intensity import hu_to_grey
from jax_pix2pix.imaging.mr_pictures import stored_source
from jax_pix2pix.imaging.planes import cut, native, stored_image
from jax_pix2pix.imaging.resizing import evaluation_image
from jax_pix2pix.imaging.safe_io import PICTURES, read_picture
from jax_pix2pix.imaging.volume import Geometry, Volume
from jax_pix2pix.inference import inputs, sources
from jax_pix2pix.inference.checks import check_learnt_from, check_pictures
from jax_pix2pix.inference.prediction import GREY, HU, Prediction
from jax_pix2pix.inference.sliding_window import blend, by_slices
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.safety.paths import expanded


class SyntheticCT:
    def __init__(self, run):
        self._run, self.data = run, run.config.data

    def __call__(
        self,
        given,
        affine=None,
        progress=None,
        mask=None,
        grid=None,
        spacing_mm=None,
        axes=None,
        geometry=None,
        series=None,
    ):
        """See `Run.predict`.

        Args:
            given: as `sources.volume_of`; or the path of a picture, if the run learnt from such.
            mask: the body: path, Volume, or array in the axes of the source's affine. By
                default mask.* beside a volume called as in SynthRAD, or what `body_mask` finds.
            grid: path, Volume or Geometry, for runs with config.data.resample: on whose voxels MR
                and mask are resampled, as for training, and the synthetic CT is made.
            spacing_mm, axes, geometry, series: as for `imaging.geometry.given`, of all three; a
                series is of a grid.

        Raises:
            DataError: a file cannot be read, or the mask is not on the volume's voxels and nothing
                is resampled.
        """
        pictures = isinstance(given, sources.PATHS) and os.fspath(given).lower().endswith(PICTURES)
        check_learnt_from(self._run.source_notes, pictures)
        if pictures:
            if mask is not None or grid is not None or affine is not None:
                raise ConfigError("mask, grid and affine are of volumes, and this is a picture")
            return self._of_picture(given, progress)
        data = self.data
        if grid is not None and not data.resample:
            raise ConfigError(
                "grid is of runs with config.data.resample: this one keeps the source's voxels"
            )
        user = given_by_user(spacing_mm, axes, geometry, series)
        grid = self._grid(grid, user)
        kind = "ct" if data.modality in mr_volumes.IN_HU else "intensity"
        volume, name = sources.volume_of(given, kind, affine, user)
        notes = told = sources.told_of(volume)
        if mask is None and isinstance(given, sources.PATHS):
            mask = _mask_beside(name, data.modality)
        if grid is not None:
            volume.geometry.needed_spacing_mm(name, "resampling")
        body, body_from = self._body(mask, volume, name, grid, user)
        if grid is not None:
            if grid.note:
                notes = *told, f"the grid: {grid.note}"
            volume = Volume(mr_volumes.resampled_source(volume, data.modality, grid).values, grid)
        if body is None:
            body = body_mask(volume.values)
        try:
            values = mr_volumes.stored_source(volume.values, body, data)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        small = self._synthesised(prepared_planes(values, data), body, progress)
        hu = np.empty(volume.geometry.shape, np.int16)
        slices = cut(hu, data.plane)
        for k, plane in enumerate(small):
            slices[k] = np.rint(native(plane, slices.shape[1:]))
        return Prediction(hu, HU, volume.geometry, values, body, body_from, notes=notes, told=told)

    def _of_picture(self, path, progress):
        """A picture of the size of the source, in which 0 and 255 are data.image_window_hu."""
        data = self.data
        check_pictures(self._run.config, True)
        path = expanded(path)
        grey = read_picture(path)
        check_grey(grey, path)
        stored = prepared_picture(grey, data)
        (hu,) = np.asarray(self._run.outputs(stored[None]))
        hu = native(hu[..., 0], grey.shape)
        if progress:
            progress(1, 1)
        return Prediction(hu_to_grey(hu, data.image_window_hu), GREY, source=grey)

    def _grid(self, grid, user):
        """Reads the Geometry to resample MR and mask to; None leaves them on their own voxels."""
        if not self.data.resample:
            return None
        if grid is None:
            messages.warning(
                "this run was trained on MR resampled to the CT's voxels (config.data.resample), "
                "and here field of view and voxels stay the MR's own, which may differ: give a "
                "file on the voxels that are wanted as reference, volume by volume"
            )
            return None
        if isinstance(grid, Geometry | Volume):
            geometry = grid if isinstance(grid, Geometry) else grid.geometry
            geometry.needed_spacing_mm("the grid", "resampling")
            return geometry
        messages.info(f"MR and mask are resampled, as for training, to the voxels of {grid}")
        grid = expanded(grid)
        geometry = sources.geometry_of(grid, user)
        geometry.needed_spacing_mm(grid, "resampling")
        return geometry

    def _body(self, mask, volume, name, grid, user):
        """(uint8 of the body on the voxels of the result, or None to find it; where it is from)."""
        if mask is None:
            notes = "".join(f"; in training: {note}" for note in self._run.mask_notes)
            return None, f"Otsu's threshold of {name}, holes filled, largest component{notes}"
        affine = None
        if isinstance(mask, np.ndarray):  # on the source's voxels, in the axes of its affine
            affine = volume.geometry.affine
        labels, where = sources.volume_of(mask, "labels", affine, user)
        if grid is None:
            values = volume.geometry.reordered(name, labels, where, "resample the latter")
        else:
            if affine is None:
                labels.geometry.needed_spacing_mm(where, "resampling")
            values = resample.nearest(labels, grid).values
        if where.startswith("the "):
            where = f"{where} that was given"
        return foreground(values, where).astype(np.uint8), where

    def _synthesised(self, stored, body, progress):
        """Predicts HU of prepared slices with neighbours, or of blended 3D patches: [d, S, S].

        Training stored only slices with body, so where a stretch of body ends, its last slice
        stands in for the missing neighbour.
        """
        data = self.data
        network = self._run.outputs
        if data.depth:
            side = data.patch_size or data.image_size
            return blend(stored, (data.depth, side, side), network, progress=progress)[..., 0]
        shown = mr_volumes.shows_body(body, data)
        (hu,) = by_slices(stored, data.context, lambda x: (network(x),), progress, shown)
        return hu[..., 0]


def prepared_planes(values, data):
    """Resizes a stored volume as preparation and evaluation do.

    Args:
        values: uint16 [slices, rows, columns], axial.
        data: config.data.

    Returns:
        uint16 [slices, S, S, 1] of data.plane, where S is data.image_size.
    """
    planes = (
        stored_image(plane, data.stored_size, beyond=0)[..., None]
        for plane in cut(values, data.plane)
    )
    return np.stack([evaluation_image(plane, data.image_size) for plane in planes])


def prepared_picture(grey, data):
    """Prepares a picture as preparation and evaluation do. uint8 [h, w] -> uint16 [S, S, 1]."""
    return evaluation_image(stored_source(grey, data.stored_size), data.image_size)


def _mask_beside(path, modality):
    """Finds the path of mask.* beside a volume named as in SynthRAD, or None."""
    if inputs.stem(path) == modality:
        for ending in volume_file.ENDINGS:
            beside = os.path.join(os.path.dirname(path), f"mask{ending}")
            if os.path.exists(beside):
                return beside
    return None
