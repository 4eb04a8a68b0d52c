"""The training set in device memory: batches are numbers, by which the step gathers the images.

The images may be anything: {name: [n, h, w, c]} of any type.
"""

import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.sharding import replicated

SHARE = 0.5  # of a device's free memory, at most; the rest is for state, activations and scratch


def put(dataset, mesh):
    """Copies a data set to every device of the mesh.

    Args:
        dataset: {name: NumPy array [n, h, w, c]}, the same on every process.

    Raises:
        ConfigError: it exceeds SHARE of a device's free memory, if known; CPUs do not report it.
    """
    needed = sum(images.nbytes for images in dataset.values())
    for device in mesh.local_devices:
        memory = device.memory_stats()
        if memory and "bytes_limit" in memory:
            free = memory["bytes_limit"] - memory["bytes_in_use"]
            if needed > SHARE * free:
                raise ConfigError(
                    f'config.data.cache="device" needs {needed / 1e9:.2f} GB on each device, above '
                    f'{SHARE:.0%} of the {free / 1e9:.2f} GB free on {device}: use "host" or "none"'
                )
    everywhere = replicated(mesh)
    return {
        name: jax.make_array_from_process_local_data(everywhere, images)
        for name, images in dataset.items()
    }


def example_numbers(depth):
    """Zeros as ``numbers`` of `gather`, for one example of `depth` slices; 0 is a single slice."""
    # int is int32, or int64 if JAX has 64 bits enabled, as in to_global.
    index = jnp.zeros((1, depth) if depth else 1, int)
    return {"index": index, "offset": jnp.zeros((1, 2), jnp.int32), "flip": jnp.zeros(1, bool)}


def gather(dataset, numbers, size):
    """Gathers the images of a batch, cropped and mirrored; integers are copied unchanged.

    Args:
        dataset: {name: [n, h, w, c]}, slices.
        numbers: {"index": [b], or [b, d] of the slices of 3D examples; "offset": [b, 2], where the
            crop starts; "flip": bool [b], whether the crop is mirrored left to right}.
        size: of the crop, (height, width).

    Returns:
        {name: [*index, *size, c]}.
    """

    def crops(images):
        def crop(index, offset, flip):
            start = (index, *offset.astype(index.dtype), jnp.zeros_like(index))
            image = jax.lax.dynamic_slice(images, start, (1, *size, images.shape[-1]))[0]
            return jnp.where(flip, jnp.flip(image, -2), image)

        if numbers["index"].ndim == 2:
            crop = jax.vmap(crop, (0, None, None))
        return jax.vmap(crop)(numbers["index"], numbers["offset"], numbers["flip"])

    return {name: crops(images) for name, images in dataset.items()}


def as_channels(batch, context):
    """Makes 2D examples of runs of 2 context + 1 slices: the source's slices become its channels.

    {"source", "target": [b, 2 context + 1, h, w, c]} -> {"source": [b, h, w, (2 context + 1) c],
    "target": [b, h, w, c] of the middle slice}.
    """
    channels = jnp.moveaxis(batch["source"], 1, -2)
    source = channels.reshape(*channels.shape[:-2], -1)
    return {"source": source, "target": batch["target"][:, context]}
