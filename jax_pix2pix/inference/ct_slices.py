"""What `launch.predict` does with a system that makes CT slices of masks."""

import jax
import numpy as np
import tqdm
from PIL import Image

from jax_pix2pix.imaging.safe_io import read_mask
from jax_pix2pix.imaging.slices import stored_mask
from jax_pix2pix.adversarial import generate
from jax_pix2pix.intensity import to_network, to_stored
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.files import replacing

BATCH = 16


def predict(config, system, generator, source, output):
    """Writes output/<mask's path without ending>.png, 8-bit, config.data.image_size a side."""
    paths = inputs.label_masks(source, output)

    @jax.jit
    def synthesise(stored):
        fake = generate(system, generator, to_network(stored, config.data.source_range))
        return to_stored(fake, config.data.target_range)

    for start in tqdm.tqdm(range(0, len(paths), BATCH), unit="batch"):
        part = paths[start : start + BATCH]
        stored = np.stack([_read(path, config.data) for path, _ in part])
        # A short last batch is padded, so that the generator is compiled once.
        padding = [(0, BATCH - len(part)), *[(0, 0)] * (stored.ndim - 1)]
        images = np.asarray(synthesise(np.pad(stored, padding)))
        for (_, result), image in zip(part, images, strict=False):
            with replacing(result) as path:
                Image.fromarray(np.clip(np.round(image[..., 0]), 0, 255).astype(np.uint8)).save(
                    path
                )
    print(f"{len(paths)} slices in {output}")


def _read(path, data):
    """A stored mask [size, size, 1], as preparation makes it."""
    mask = read_mask(path)
    return stored_mask(mask, path, data.mask_values, data.image_size, data.mask_resize)
