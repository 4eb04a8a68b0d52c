"""A pair of registered volumes, slice by slice, on the CT's voxels. No TensorFlow.

`config` is the data set's Config throughout, and `pair` of layouts.Volumes.
"""

import numpy as np

from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.mr_intensity import stored_cbct, stored_mr
from jax_pix2pix.imaging.planes import AIR_HU, PLANES, cut, stored_image, stored_labels, stored_spacing_mm
from jax_pix2pix.imaging import resample
from jax_pix2pix.imaging.volume_file import read_ct, read_geometry, read_hu, read_labels, read_mr
from jax_pix2pix.errors import DataError


def check(root, pair, config):
    """Reads the headers of a pair.

    Returns:
        Geometry of the CT.

    Raises:
        DataError: a header cannot be used; or, without config.resample, the grids differ.
    """
    grid = read_geometry(root / pair.ct)
    for name in filter(None, (pair.source, pair.mask)):
        geometry = read_geometry(root / name)
        if not config.resample:
            path = root / name
            grid.check_same_grid(root / pair.ct, geometry, path, "prepare with --resample")
    return grid


def slices_with_body(root, pair, config):
    """The numbers of the slices, as `planes.cut` has them, that show some body once stored.

    Raises:
        DataError: there are none, or a file cannot be read.
    """
    mask = _given_mask(root, pair, config)
    if mask is None:
        mask = body_mask(_source(root, pair, config))
    slices = np.flatnonzero(shows_body(mask, config)).tolist()
    if not slices:
        raise DataError(f"{root / (pair.mask or pair.source)} shows no body: correct or remove it")
    return slices


def shows_body(mask, config):
    """Which slices, as `planes.cut` has them, show some body once stored. -> bool [slices].

    mask: uint8 [slices, rows, columns], axial.
    """
    planes = cut(mask, config.plane)
    return np.array([stored_labels(plane, config.stored_size).any() for plane in planes])


def read(root, pair, slices, config):
    """The records of these slices, as `builder.Builder.read` describes them.

    One of the two volumes is in memory at a time, beside the mask.

    Raises:
        DataError: a file cannot be read, or the CT is not in HU.
    """
    size = config.stored_size
    grid = read_geometry(root / pair.ct)
    values = _source(root, pair, config)
    mask = _given_mask(root, pair, config)
    if mask is None:
        mask = body_mask(values)
    values = cut(_stored(root, pair, config, values, mask), config.plane)
    mask = cut(mask, config.plane)
    spacing_mm = [grid.spacing_mm[axis] for axis in PLANES[config.plane]]
    records = [
        {
            "image": stored_image(values[k], size, beyond=0)[..., None],
            "mask": stored_labels(mask[k], size)[..., None],
            "spacing_mm": stored_spacing_mm(spacing_mm, mask.shape[1:], size),
        }
        for k in slices
    ]
    del values, mask
    hu = cut(read_hu(root / pair.ct).values, config.plane)
    for record, k in zip(records, slices, strict=True):
        record["ct"] = stored_image(hu[k], size)[..., None]
    return records


def read_source(path, modality, grid=None):
    """An MR or a cone beam CT.

    Args:
        path: of the volume.
        modality: "mr" or "cbct".
        grid: Geometry to resample it to, linearly; None leaves it where it is.

    Returns:
        float32, or int16 HU of a cone beam CT: [slices, rows, columns].

    Raises:
        DataError: the file cannot be read.
    """
    volume = read_ct(path) if modality == "cbct" else read_mr(path)
    if grid is not None:
        beyond = AIR_HU if modality == "cbct" else float(volume.values.min())
        volume = resample.linear(volume, grid, beyond)
    return volume.values


def read_body(path, grid=None):
    """A mask's file as `read_source` reads an image, to nearest. -> uint8, 1 in the body."""
    volume = read_labels(path)
    if grid is not None:
        volume = resample.nearest(volume, grid)
    return (volume.values > 0).astype(np.uint8)


def _source(root, pair, config):
    return read_source(root / pair.source, config.modality, _resampled_to(root, pair, config))


def _given_mask(root, pair, config):
    """None where there is no file."""
    if pair.mask:
        return read_body(root / pair.mask, _resampled_to(root, pair, config))


def _resampled_to(root, pair, config):
    return read_geometry(root / pair.ct) if config.resample else None


def _stored(root, pair, config, values, mask):
    if config.modality == "cbct":
        return stored_cbct(values)
    try:
        return stored_mr(values, mask, config.mr_percentiles)
    except DataError as error:
        raise DataError(f"{root / pair.source}: {error}") from None
