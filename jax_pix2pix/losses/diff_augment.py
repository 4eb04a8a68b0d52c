"""DiffAugment (Zhao et al., NeurIPS 2020): D sees real and fake images through random changes.

Gradients pass through them to G. With few scans this keeps D from memorising them.
"""

import functools

import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError

SHIFT = 1 / 8  # at most, of a side
CUTOUT = 1 / 2  # of a side


def diff_augment(policy):
    """The augmentation of a System.

    "color" changes the brightness and the contrast of the image alone; "translation" shifts source
    and image alike, by up to an eighth of each side; "cutout" empties a box of half of each side in
    both, which may cross the border. Empty pixels are -1, like air or background.

    Args:
        policy: names joined by commas; "" is none.

    Returns:
        (key, source, image) -> (source, image), [n, *spatial, c] in [-1, 1], each example changed
        independently; None for the policy "".

    Raises:
        ConfigError: a name is unknown.
    """
    if not policy:
        return None
    changes = []
    for name in policy.split(","):
        if name not in CHANGES:
            raise ConfigError(
                f'config.diff_augment has "{name}": use {", ".join(CHANGES)}, joined by commas'
            )
        changes.append(CHANGES[name])

    def augment(key, source, image):
        for number, change in enumerate(changes):
            keys = jax.random.split(jax.random.fold_in(key, number), len(image))
            source, image = jax.vmap(change)(keys, source, image)
        return source, image

    return augment


def _color(key, source, image):
    brightness, contrast = jax.random.uniform(key, (2,), image.dtype)
    image = image + (brightness - 0.5)
    mean = image.mean()
    return source, (image - mean) * (contrast + 0.5) + mean


def _translation(key, source, image):
    sides = image.shape[:-1]
    most = jnp.array([round(side * SHIFT) for side in sides])
    shift = jax.random.randint(key, (len(sides),), -most, most + 1)

    def translate(x):
        margins = [(round(side * SHIFT),) * 2 for side in sides]
        padded = jnp.pad(x, [*margins, (0, 0)], constant_values=-1)
        return jax.lax.dynamic_slice(padded, (*(most - shift), 0), x.shape)

    return translate(source), translate(image)


def _cutout(key, source, image):
    sides = image.shape[:-1]
    inside = []
    for axis, (side, place) in enumerate(
        zip(sides, jax.random.uniform(key, (len(sides),)), strict=True)
    ):
        length = round(side * CUTOUT)
        first = jnp.floor(place * (side + 1)).astype(int) - length // 2
        pixels = jnp.arange(side)
        shape = [1] * len(sides) + [1]
        shape[axis] = side
        inside.append(((pixels >= first) & (pixels < first + length)).reshape(shape))
    box = functools.reduce(jnp.logical_and, inside)
    return jnp.where(box, -1, source), jnp.where(box, -1, image)


CHANGES = {"color": _color, "translation": _translation, "cutout": _cutout}
