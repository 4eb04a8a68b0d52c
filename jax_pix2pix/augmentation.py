"""Random changes of training pairs, in the compiled step, so that a network stands other scanners.

The numbers follow from (seed, step), like the order of examples, flips and crops. So caches, hosts
and devices change no batch, and a resumed run sees what it would have seen. The kinds of changes
are those of nnU-Net (Isensee et al., Nature Methods 2021).
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_pix2pix.errors import ConfigError

LABELS = "mask"  # the stored image whose values are classes


def augmentation(config):
    """The Augmentation of config.augment; None if all of it is off.

    Raises:
        ConfigError: fields are missing or unknown, or intensities of a source of labels are to be
            changed.
    """
    fields = dict(config.augment)
    known = {field.name for field in dataclasses.fields(Augmentation)} - {"labels", "fills"}
    if fields.keys() != known:
        raise ConfigError(f"config.augment has not the fields {', '.join(sorted(known))}")
    if not any(value for name, value in fields.items() if name != "share"):
        return None
    data = config.data
    if data.source == LABELS:
        for name in ("gamma", "contrast", "brightness", "noise", "blur"):
            if fields[name]:
                raise ConfigError(
                    f"config.augment.{name}={fields[name]}: the source is a mask of classes, whose "
                    "values must stay: use 0"
                )
    window = data.get("target_range") or data.get("window_hu") or (0,)
    fills = {"source": data.source_range[0], "target": window[0]}
    names = {"source": data.source, "target": data.target}
    return Augmentation(
        **fields,
        labels=tuple(key for key, name in names.items() if name == LABELS),
        fills={key: 0 if names[key] == LABELS else fill for key, fill in fills.items()},
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Augmentation:
    """How much examples change; 0 is not at all.

    Each change is made to a `share` of the examples, independently of the other changes.

    rotation_degrees: up to so many to either side, in the plane of the slices.
    scale: from 1 / (1 + scale) to 1 + scale, in that plane, evenly by the logarithm.
    gamma: exponent of the source in [0, 1], from 1 / (1 + gamma) to 1 + gamma, likewise.
    contrast: factor of the distance to the example's mean, from 1 / (1 + contrast), likewise.
    brightness: what is added to the source in [-1, 1], at most.
    noise: standard deviation of normal noise on the source in [-1, 1], at most.
    blur: standard deviation of a Gaussian filter of the source, in pixels, at most.
    labels: the stored images, "source" and "target", that hold classes: they are not interpolated.
    fills: stored value of pixels that come from outside, for each image.
    """

    rotation_degrees: float
    scale: float
    gamma: float
    contrast: float
    brightness: float
    noise: float
    blur: float
    share: float
    labels: tuple
    fills: dict

    def move(self, key, batch):
        """Rotates and scales both stored images of each example alike, about their centre.

        Args:
            key: random key of the step.
            batch: {"source", "target": stored values [n, *spatial, c], ...}; other arrays stay.

        Returns:
            The batch, whose images are of the same types where they hold classes, else float32.
        """
        if not (self.rotation_degrees or self.scale):
            return batch
        size = len(batch["source"])
        angle = jnp.radians(self._drawn(key, 0, size, self.rotation_degrees))
        zoom = jnp.exp(self._drawn(key, 1, size, jnp.log1p(self.scale)))

        def moved(name):
            linear = name not in self.labels
            move = jax.vmap(lambda x, a, z: sampled(x, a, z, self.fills[name], linear))
            return move(batch[name], angle, zoom)

        return batch | {name: moved(name) for name in ("source", "target")}

    def recolour(self, key, source):
        """Changes the intensities of each source [n, *spatial, c] in [-1, 1], and clips to that."""
        size = len(source)
        before = source
        shape = (size, *(1,) * (source.ndim - 1))

        def drawn(number, most):
            return self._drawn(key, number, size, most).reshape(shape).astype(source.dtype)

        if self.blur:
            source = blurred(source, jnp.abs(self._drawn(key, 2, size, self.blur)), self.blur)
        if self.noise:
            normal = jax.random.normal(jax.random.fold_in(key, 8), source.shape, source.dtype)
            source = source + jnp.abs(drawn(3, self.noise)) * normal
        if self.brightness:
            source = source + drawn(4, self.brightness)
        if self.contrast:
            mean = source.mean(tuple(range(1, source.ndim)), keepdims=True)
            source = (source - mean) * jnp.exp(drawn(5, jnp.log1p(self.contrast))) + mean
        if self.gamma:
            exponent = jnp.exp(drawn(6, jnp.log1p(self.gamma)))
            # The power of 0 has no gradient for the exponent, but nothing takes one.
            source = 2 * ((jnp.clip(source, -1, 1) + 1) / 2) ** exponent - 1
        return source if source is before else jnp.clip(source, -1, 1)

    def _drawn(self, key, number, size, most):
        """[size] numbers from -most to most, and 0 for the examples that this change leaves."""
        values, chosen = jax.random.uniform(jax.random.fold_in(key, number), (2, size))
        return jnp.where(chosen < self.share, most * (2 * values - 1), 0)


def sampled(image, angle, zoom, fill, linear):
    """An image turned by an angle and enlarged by a factor, about its centre, in its last plane.

    Args:
        image: [*slices, h, w, c].
        angle: in radians, from rows to columns.
        fill: value of what comes from outside.
        linear: whether to interpolate between four pixels, or to take the nearest one.
    """
    height, width = image.shape[-3:-1]
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    rows, columns = jnp.indices((height, width)) - middle
    cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    rows, columns = cosine * rows - sine * columns, sine * rows + cosine * columns
    rows, columns = rows + middle[0], columns + middle[1]

    def at(rows, columns):
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        pixels = image[..., jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1), :]
        return jnp.where(inside[..., None], pixels, jnp.asarray(fill, image.dtype))

    if not linear:
        return at(jnp.round(rows).astype(int), jnp.round(columns).astype(int))
    row, column = jnp.floor(rows).astype(int), jnp.floor(columns).astype(int)
    down, right = (rows - row)[..., None], (columns - column)[..., None]
    upper = at(row, column) * (1 - right) + at(row, column + 1) * right
    lower = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right
    return upper * (1 - down) + lower * down


def blurred(images, sigma, most):
    """Images [n, *slices, h, w, c] through a Gaussian filter of their rows and columns.

    Args:
        sigma: [n] standard deviations in pixels; 0 leaves an image as it is.
        most: the largest possible one, which bounds the filter: it ends at three of them.
    """
    reach = max(int(3 * most + 0.5), 1)
    offsets = jnp.arange(-reach, reach + 1)
    exponents = offsets**2 / (2 * jnp.maximum(sigma, 1e-3)[:, None] ** 2)
    weights = jnp.exp(-exponents)
    weights = (weights / weights.sum(1, keepdims=True)).astype(images.dtype)
    for axis in (images.ndim - 3, images.ndim - 2):
        margins = [(reach, reach) if a == axis else (0, 0) for a in range(images.ndim)]
        padded = jnp.pad(images, margins, "edge")
        parts = [
            jax.lax.slice_in_dim(padded, k, k + images.shape[axis], axis=axis)
            * weights[:, k].reshape(-1, *(1,) * (images.ndim - 1))
            for k in range(2 * reach + 1)
        ]
        images = sum(parts[1:], parts[0])
    return images
