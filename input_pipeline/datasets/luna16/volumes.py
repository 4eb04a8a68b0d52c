"""A chest CT, whole or in crops, as slices of the stored size. No TensorFlow.

Throughout, `config` is the data set's Config and `series` a layouts.Series.
"""

import hashlib

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.label_values import numbered
from jax_pix2pix.imaging.volume_file import read_ct, read_geometry, read_labels

# In LUNA16's masks 3 and 4 are the lungs and 5 is the trachea; 1 is the lungs in others.
LUNG_LABELS, TRACHEA = (1, 3, 4), 5


def check(root, series, config):
    """Reads the headers of a volume and its mask.

    Returns:
        {"CT": Geometry of the volume, "mask": that of its mask, if it has one}.

    Raises:
        DataError: a header cannot be used or leaves the spacing open, the mask is on other voxels,
            or the volume has an axis of one voxel, is smaller than a crop, or is too large once it
            is resized.
    """
    path = root / series.file_name
    grid = read_geometry(path, config.given(root, series.file_name))
    grid.needed_spacing_mm(path, "a sample's own spacing")
    found = {"CT": grid}
    if series.mask_name:
        mask_path = root / series.mask_name
        of_mask = found["mask"] = read_geometry(mask_path, config.given(root, series.mask_name))
        grid.check_same_grid(path, of_mask, mask_path)
    shape, wanted = _shape(grid, config), stored_shape(config)
    if min(grid.shape) < 2:
        raise DataError(f"{path} has {grid.shape} voxels: a volume has 2 or more along each axis")
    if shape != grid.shape:
        volume_resizing.check_resizing(path, grid.shape, shape)
    if not config.crops:
        volume_resizing.check_resizing(path, shape, wanted)
    if config.crops and np.less(shape, wanted).any():
        raise DataError(
            f"{path} has {' x '.join(map(str, shape))} voxels{_of(config)}, less than the "
            f"{' x '.join(map(str, wanted))} of a crop: set a smaller config.data.depth or "
            "stored_size, or crops=0"
        )
    return found


def read(root, series, config):
    """The records of a volume, as `builder.Builder.read` describes them.

    Raises:
        DataError: a file cannot be read, or the volume is not in HU.
    """
    path = root / series.file_name
    volume = read_ct(path, config.given(root, series.file_name))
    grid = volume.geometry
    hu = np.clip(volume.values, *config.clip_hu)  # LUNA16 has -3024 beyond the field of view
    del volume
    records = _records(hu, "image", volume_resizing.linear, grid, series, config)
    if series.mask_name:
        mask_path = root / series.mask_name
        mask = read_labels(mask_path, config.given(root, series.mask_name))
        lungs = lungs_of(grid.reordered(path, mask, mask_path), mask_path)
        masks = _records(lungs, "mask", volume_resizing.nearest, grid, series, config)
        records = [record | mask for record, mask in zip(records, masks, strict=True)]
    spacing_mm = stored_spacing_mm(grid, config)
    return [record | {"spacing_mm": spacing_mm} for record in records]


def lungs_of(labels, path):
    """Finds the lungs in a mask's labels: uint8, 1 in them. Raises DataError for unknown labels."""
    known = {"lungs": LUNG_LABELS, "trachea": (TRACHEA,)}
    if labels.max() > TRACHEA:
        known = {"lungs": LUNG_LABELS}  # 0 and 255 are of one region
    return np.isin(numbered(labels, path, known), LUNG_LABELS).astype(np.uint8)


def stored_shape(config):
    """(slices, rows, columns) of an example."""
    return config.depth, config.stored_size, config.stored_size


def stored_spacing_mm(grid, config):
    """Millimetres between slices, rows and columns of an example."""
    spacing = (config.isotropic_mm,) * 3 if config.isotropic_mm else grid.spacing_mm
    if config.crops:
        return spacing
    return tuple(
        mm * (old - 1) / (new - 1)
        for mm, old, new in zip(spacing, _shape(grid, config), stored_shape(config), strict=True)
    )


def corner(series, number, shape, config):
    """The first voxel of a crop. The series and the number alone decide it, so it stays there.

    Args:
        shape: of the volume, in voxels.
    """
    digest = hashlib.sha256(f"{series.name}\0{number}".encode()).digest()
    drawn = np.frombuffer(digest, ">u8")[:3].tolist()
    room = np.subtract(shape, stored_shape(config)) + 1
    return [x % int(n) for x, n in zip(drawn, room, strict=True)]


def _records(values, name, resize, grid, series, config):
    """[{name: [S, S, 1]}], one for each slice of each example."""
    if not config.crops:
        example = volume_resizing.whole(
            values, resize, grid.spacing_mm, config.isotropic_mm, stored_shape(config)
        )
        return [{name: plane[..., None]} for plane in example]
    if config.isotropic_mm:
        positions = volume_resizing.isotropic(values.shape, grid.spacing_mm, config.isotropic_mm)
        values = volume_resizing.rounded(resize(values, positions), values.dtype)
    corners = [corner(series, k, values.shape, config) for k in range(config.crops)]
    examples = [
        values[tuple(slice(a, a + n) for a, n in zip(at, stored_shape(config), strict=True))]
        for at in corners
    ]
    return [{name: plane[..., None]} for example in examples for plane in example]


def _shape(grid, config):
    """(slices, rows, columns) of the volume before it is resized or cropped."""
    if not config.isotropic_mm:
        return grid.shape
    positions = volume_resizing.isotropic(grid.shape, grid.spacing_mm, config.isotropic_mm)
    return tuple(map(len, positions))


def _of(config):
    return f" of {config.isotropic_mm:g} mm" if config.isotropic_mm else ""
