"""What `launch.predict` does with a system that makes CT slices of masks."""

import os

import jax
import numpy as np
import tqdm
from PIL import Image

from input_pipeline.safe_io import DataError, read_mask
from input_pipeline.slices import stored_mask
from jax_pix2pix.adversarial import generate
from jax_pix2pix.intensity import to_network, to_stored
from launch.predict_files import check_apart, replacing

BATCH = 16


def predict(config, system, generator, source, output):
    """Writes output/<mask's path without ending>.png, 8-bit, config.data.image_size a side."""
    folder, names = _masks(source)
    check_apart(folder, output)

    @jax.jit
    def synthesise(stored):
        fake = generate(system, generator, to_network(stored, config.data.source_range))
        return to_stored(fake, config.data.target_range)

    for start in tqdm.tqdm(range(0, len(names), BATCH), unit="batch"):
        part = names[start : start + BATCH]
        stored = np.stack([_read(os.path.join(folder, name), config.data) for name in part])
        # A short last batch is padded, so that the generator is compiled once.
        padding = [(0, BATCH - len(part)), *[(0, 0)] * (stored.ndim - 1)]
        images = np.asarray(synthesise(np.pad(stored, padding)))
        for name, image in zip(part, images, strict=False):
            with replacing(os.path.join(output, os.path.splitext(name)[0] + ".png")) as path:
                Image.fromarray(np.clip(np.round(image[..., 0]), 0, 255).astype(np.uint8)).save(
                    path
                )
    print(f"{len(names)} slices in {output}")


def _masks(source):
    """-> (folder, names): the file, or every .npy below a folder, or every .png without one.

    Where masks are .png beside CT slices, as preparation takes them, the slices are left out.
    """
    if not os.path.isdir(source):
        return os.path.split(source)[0], [os.path.split(source)[1]]
    files = sorted(
        os.path.relpath(os.path.join(folder, name), source)
        for folder, _, names in os.walk(source)
        for name in names
    )
    for ending in (".npy", ".png"):
        if found := [n for n in files if n.lower().endswith(ending) and "_slice_" not in n]:
            return source, found
    raise DataError(f"{source}: holds no .npy and no .png masks")


def _read(path, data):
    """A stored mask [size, size, 1], as preparation makes it."""
    mask = read_mask(path)
    return stored_mask(mask, path, data.mask_values, data.image_size, data.mask_resize)
