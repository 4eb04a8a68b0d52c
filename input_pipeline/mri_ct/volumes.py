"""A pair of registered volumes, slice by slice, on the CT's voxels. No TensorFlow.

`config` is the data set's Config throughout, and `pair` of layouts.Volumes.
"""

import numpy as np

from input_pipeline.mri_ct.body_mask import body_mask
from input_pipeline.mri_ct.intensity import stored_cbct, stored_mr
from input_pipeline.planes import (
    AIR_HU,
    PLANES,
    cut,
    stored_image,
    stored_labels,
    stored_spacing_mm,
)
from input_pipeline.raw import resample
from input_pipeline.raw.volume_file import read_ct, read_geometry, read_hu, read_labels, read_mr
from input_pipeline.safe_io import DataError


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
    grid = read_geometry(root / pair.ct)
    mask = _given_mask(root, pair, config, grid)
    if mask is None:
        mask = body_mask(_source(root, pair, config, grid))
    planes = enumerate(cut(mask, config.plane))
    slices = [k for k, plane in planes if stored_labels(plane, config.stored_size).any()]
    if not slices:
        raise DataError(f"{root / (pair.mask or pair.source)} shows no body: correct or remove it")
    return slices


def read(root, pair, slices, config):
    """The records of these slices, as `builder.Builder.read` describes them.

    One of the two volumes is in memory at a time, beside the mask.

    Raises:
        DataError: a file cannot be read, or the CT is not in HU.
    """
    size = config.stored_size
    grid = read_geometry(root / pair.ct)
    values = _source(root, pair, config, grid)
    mask = _given_mask(root, pair, config, grid)
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


def _source(root, pair, config, grid):
    """float32, or int16 HU of a cone beam CT: [slices, rows, columns] of the grid."""
    path = root / pair.source
    volume = read_ct(path) if config.modality == "cbct" else read_mr(path)
    if config.resample:
        beyond = AIR_HU if config.modality == "cbct" else float(volume.values.min())
        volume = resample.linear(volume, grid, beyond)
    return volume.values


def _given_mask(root, pair, config, grid):
    """uint8 [slices, rows, columns] of the grid: 1 in the body; or None where there is no file."""
    if not pair.mask:
        return None
    volume = read_labels(root / pair.mask)
    if config.resample:
        volume = resample.nearest(volume, grid)
    return (volume.values > 0).astype(np.uint8)


def _stored(root, pair, config, values, mask):
    if config.modality == "cbct":
        return stored_cbct(values)
    try:
        return stored_mr(values, mask, config.mr_percentiles)
    except DataError as error:
        raise DataError(f"{root / pair.source}: {error}") from None
