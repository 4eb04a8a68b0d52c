"""The training set in device memory: batches are numbers, and the step gathers the images itself.

Nothing here knows what the images are: {name: [n, h, w, c]} of any type.
"""

import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.sharding import replicated

SHARE = 0.5  # of a device's free memory: the rest is for the state, activations and scratch


def put(dataset, mesh):
    """Copies a data set to every device of the mesh.

    Args:
        dataset: {name: NumPy array [n, h, w, c]}, the same on every process.

    Raises:
        ConfigError: it is more than SHARE of the free memory of a device that tells; CPUs do not.
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
    """One example of what `gather` wants of a batch, of `depth` slices; 0 is a single one."""
    # int is int32, or int64 where JAX has 64 bits: as to_global makes it.
    index = jnp.zeros((1, depth) if depth else 1, int)
    return {"index": index, "offset": jnp.zeros((1, 2), jnp.int32), "flip": jnp.zeros(1, bool)}


def gather(dataset, numbers, size):
    """The images of a batch, cropped and mirrored: integers are copied, so they stay what they are.

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
    """Runs of 2 context + 1 slices as 2D examples: the source's slices become its channels.

    {"source", "target": [b, 2 context + 1, h, w, c]} -> [b, h, w, (2 context + 1) c] and, of the
    middle slice, [b, h, w, c].
    """
    channels = jnp.moveaxis(batch["source"], 1, -2)
    source = channels.reshape(*channels.shape[:-2], -1)
    return {"source": source, "target": batch["target"][:, context]}
