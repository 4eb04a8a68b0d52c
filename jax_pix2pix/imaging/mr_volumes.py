"""Reads a pair of registered volumes slice by slice, on the CT's voxels. No TensorFlow.

`config` is the data set's Config throughout, and `pair` is one of layouts.Volumes.
"""

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import resample
from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.label_values import foreground
from jax_pix2pix.imaging.mr_intensity import stored_cbct, stored_mr
from jax_pix2pix.imaging.planes import (
    AIR_HU,
    PLANES,
    cut,
    stored_image,
    stored_labels,
    stored_spacing_mm,
)
from jax_pix2pix.imaging.volume_file import read_ct, read_geometry, read_labels, read_mr

IN_HU = ("cbct", "ct")  # source modalities whose values are in HU


def check(root, pair, config):
    """Reads the headers of a pair.

    Returns:
        {"CT": Geometry of the CT, and of a source and a mask of its own: "MR" or "CBCT", "mask"}.

    Raises:
        DataError: a header cannot be used; or, without config.resample, the grids differ.
    """
    grid = _grid(root, pair, config)
    found = {"CT": grid}
    for what, name in ((config.modality.upper(), pair.source), ("mask", pair.mask)):
        if not name:
            continue
        path = root / name
        geometry = found[what] = read_geometry(path, config.given(root, name))
        if not config.resample:
            grid.check_same_grid(root / pair.ct, geometry, path, "prepare with --resample")
        else:
            geometry.needed_spacing_mm(path, "resampling")
    if config.resample:
        grid.needed_spacing_mm(root / pair.ct, "resampling")
    return found


def slices_with_body(root, pair, config):
    """Lists the slices, numbered as in `planes.cut`, that show some body once stored.

    Raises:
        DataError: no slice shows the body, or a file cannot be read.
    """
    mask = _given_mask(root, pair, config)
    if mask is None:
        mask = body_mask(_source(root, pair, config))
    slices = np.flatnonzero(shows_body(mask, config)).tolist()
    if not slices:
        raise DataError(f"{root / (pair.mask or pair.source)} shows no body: correct or remove it")
    return slices


def shows_body(mask, config):
    """Tells which slices of `planes.cut` show some body once stored. -> bool [slices].

    mask: uint8 [slices, rows, columns], axial.
    """
    planes = cut(mask, config.plane)
    return np.array([stored_labels(plane, config.stored_size).any() for plane in planes])


def read(root, pair, slices, config):
    """Reads the records of these slices; `builder.Builder.read` describes them.

    Memory holds one of the two volumes at a time, beside the mask.

    Raises:
        DataError: a file cannot be read, or the CT is not in HU.
    """
    size = config.stored_size
    grid = _grid(root, pair, config)
    values = _source(root, pair, config)
    mask = _given_mask(root, pair, config)
    if mask is None:
        mask = body_mask(values)
    values = cut(_stored(root, pair, config, values, mask), config.plane)
    mask = cut(mask, config.plane)
    spacing_mm = grid.spacing_mm and [grid.spacing_mm[axis] for axis in PLANES[config.plane]]
    records = [
        {
            "image": stored_image(values[k], size, beyond=0)[..., None],
            "mask": stored_labels(mask[k], size)[..., None],
            "spacing_mm": stored_spacing_mm(spacing_mm, mask.shape[1:], size),
        }
        for k in slices
    ]
    del values, mask
    hu = cut(read_ct(root / pair.ct, config.given(root, pair.ct)).values, config.plane)
    for record, k in zip(records, slices, strict=True):
        record["ct"] = stored_image(hu[k], size)[..., None]
    return records


def resampled_source(volume, modality, grid):
    """Resamples a source's Volume to another Geometry; fills with air, or an MR's lowest value."""
    beyond = AIR_HU if modality in IN_HU else float(volume.values.min())
    return resample.linear(volume, grid, beyond)


def stored_source(values, mask, config):
    """Converts a source to its stored form: uint16 [slices, rows, columns].

    Args:
        values: [slices, rows, columns]: float32 of an MR, int16 HU otherwise.
        mask: of the same shape, not 0 in the body.

    Raises:
        DataError: an MR cannot be scaled by its body. The text names no file.
    """
    if config.modality in IN_HU:
        return stored_cbct(values)
    return stored_mr(values, mask, config.mr_percentiles)


def _grid(root, pair, config):
    return read_geometry(root / pair.ct, config.given(root, pair.ct))


def _source(root, pair, config):
    """Reads the source on the CT's voxels: float32 of an MR, int16 HU otherwise."""
    path, user, grid = (
        root / pair.source,
        config.given(root, pair.source),
        _grid(root, pair, config),
    )
    in_hu = config.modality in IN_HU
    volume = read_ct(path, user) if in_hu else read_mr(path, user)
    if config.resample:
        return resampled_source(volume, config.modality, grid).values
    return grid.reordered(root / pair.ct, volume, path, "prepare with --resample")


def _given_mask(root, pair, config):
    """Reads the mask's file on the CT's voxels: uint8, 1 in the body. None if there is none."""
    if not pair.mask:
        return None
    path, grid = root / pair.mask, _grid(root, pair, config)
    labels = read_labels(path, config.given(root, pair.mask))
    if config.resample:
        values = resample.nearest(labels, grid).values
    else:
        values = grid.reordered(root / pair.ct, labels, path, "prepare with --resample")
    return foreground(values, path).astype(np.uint8)


def _stored(root, pair, config, values, mask):
    try:
        return stored_source(values, mask, config)
    except DataError as error:
        raise DataError(f"{root / pair.source}: {error}") from None
