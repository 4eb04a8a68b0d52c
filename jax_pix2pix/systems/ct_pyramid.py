"""Noise -> CT, in 2D and 3D: one scale of a pyramid (CT-GAN); `jax_pix2pix/pyramid.py` has all."""

import jax
import jax.numpy as jnp

from jax_pix2pix.adversarial import System
from jax_pix2pix.augmentation import augmentation
from jax_pix2pix.errors import ConfigError, lookup
from jax_pix2pix.intensity import DTYPES, full_precision, scaler
from jax_pix2pix.losses.gradient_penalties import gradient_penalty
from jax_pix2pix.losses.segmenter import segmentation_distance
from jax_pix2pix.losses.terms import ADVERSARIAL, PROJECTIONS
from jax_pix2pix.models.pyramid import Pyramid, inside
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.models.scale_net import ScaleDiscriminator, SlabGenerator, VolumeGenerator
from jax_pix2pix.optimizer import adam, constant_then_tenth
from jax_pix2pix.tasks.memorisation import memorisation

REAL, FAKE, FOOLED = 1.0, 0.0, 0.9  # targets for D's logits; the last is G's


def scale_sizes(config):
    """The volumes' (depth, height, width) at every scale, coarsest first.

    In 2D the slices are channels, so every scale has all of them.

    Raises:
        ConfigError: a value does not fit.
    """
    pyramid, data = config.pyramid, config.data
    sides = [pyramid.min_size]
    while sides[-1] < pyramid.max_size:
        sides.append(int(pyramid.min_size * pyramid.factor ** len(sides)))
    sizes = [
        (data.depth if pyramid.dimensions == 2 else max(side // pyramid.depth_divisor, 1),)
        + 2 * (side,)
        for side in sides
    ]
    stored = (data.depth, data.image_size, data.image_size)
    if sizes[-1] != stored:
        raise ConfigError(
            f"config.data.depth and image_size are {stored[0]} and {stored[1]}, but the finest "
            f"scale of config.pyramid has {sizes[-1][0]} and {sizes[-1][1]}: use these"
        )
    if not pyramid.scale < len(sizes):
        raise ConfigError(f"config.pyramid.scale={pyramid.scale}: use 0 to {len(sizes) - 1}")
    return sizes


def build(config):
    """config: configs/ct_pyramid_2d.py or _3d.py with steps_per_epoch filled in -> System."""
    _check_whole(config)
    if augmentation(config):
        raise ConfigError("config.augment: a pyramid learns its volumes as they are: use 0")
    dtype = lookup(DTYPES, "dtype", config.dtype)
    precision = full_precision(config)
    sizes = scale_sizes(config)[: config.pyramid.scale + 1]
    flat = config.pyramid.dimensions == 2
    if flat:
        net = SlabGenerator(**config.generator, channels=config.data.depth, dtype=dtype)
        generator = Pyramid(net, tuple(size[1:] for size in sizes), config.pyramid.border_noise)
    else:
        net = VolumeGenerator(**config.generator, dtype=dtype)
        generator = Pyramid(net, tuple(sizes), config.pyramid.border_noise)

    def volume(image):
        """[n, *size, c] as the networks see it -> [n, d, h, w, 1]."""
        return jnp.moveaxis(image, -1, 1)[..., None] if flat else image

    source, output = scaler(config, config.data.source_range)

    def target(stored):
        real = resize_linear(source(stored), sizes[-1])
        return jnp.moveaxis(real[..., 0], 1, -1) if flat else real

    def z_rec(index):
        shape = (*net.noise_size(generator.sizes[0]), config.data.depth if flat else 1)
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        noise = jax.random.normal(key, shape, precision)
        if config.pyramid.border_noise:
            return noise
        return noise * inside(generator.sizes[0], shape[:-1]).astype(noise.dtype)

    discriminator_loss, generator_loss = _losses(config, volume)
    learning_rate = constant_then_tenth(config)
    g_updates, d_updates = config.pyramid.generator_updates, config.pyramid.discriminator_updates
    return System(
        generator=generator,
        discriminator=ScaleDiscriminator(**config.discriminator, dtype=dtype),
        generator_optimizer=adam(config, learning_rate, g_updates),
        discriminator_optimizer=adam(config, learning_rate, d_updates),
        learning_rate=learning_rate,
        source=source,
        target=target,
        output=output,
        fixed_noise=jax.vmap(z_rec),
        discriminator_loss=discriminator_loss,
        generator_loss=generator_loss,
        task=memorisation(volume),
        ema_decay=config.ema_decay,
        spike_sigmas=config.spike_sigmas,
        accumulate=config.accumulate,
        discriminator_updates=d_updates,
        generator_updates=g_updates,
    )


def _check_whole(config):
    """Raises ConfigError for augmentation: fixed noise must give one volume, not any view of it."""
    augmentation = {
        f"data.{name}": config.data[name] for name in ("flip", "load_size", "patch_size")
    }
    for field, value in (augmentation | {"diff_augment": config.diff_augment}).items():
        if value:
            raise ConfigError(
                f"config.{field}={value}: a pyramid has no augmentation, leave it out"
            )


def _losses(config, volume):
    """D: real + fake + gradient_penalty_weight WGAN-GP. G: the weighted sum of its terms.

    The adversarial term judges the sample, the others the reconstruction. A term of weight 0 is not
    computed, except the adversarial one.
    """
    weights = config.loss
    d_adversarial, g_adversarial = lookup(ADVERSARIAL, "loss.adversarial", weights.adversarial)
    terms = {}
    if weights.reconstruction_weight:
        terms["reconstruction"] = weights.reconstruction_weight, _mean_squared_error
    if weights.projection_weight:
        projection = lookup(PROJECTIONS, "loss.projection", weights.projection)
        terms["projection"] = weights.projection_weight, projection
    if weights.segmentation_weight:
        distance = segmentation_distance(
            weights.segmentation_weights_file, config.data.source_range
        )
        terms["segmentation"] = weights.segmentation_weight, distance

    def discriminator_loss(discriminate, source, target, fake, key):
        sample, _ = fake
        real_loss = d_adversarial(discriminate(source, target)[-1], REAL)
        fake_loss = d_adversarial(discriminate(source, sample)[-1], FAKE)
        loss, metrics = real_loss + fake_loss, {"D_real": real_loss, "D_fake": fake_loss}
        if weights.gradient_penalty_weight:
            penalty = gradient_penalty(discriminate, source, target, sample, key)
            metrics["gradient_penalty"] = penalty
            loss = loss + weights.gradient_penalty_weight * penalty
        return loss, {"loss_D": loss} | metrics

    def generator_loss(discriminate, source, target, fake):
        sample, reconstruction = fake
        metrics = {"G_adversarial": g_adversarial(discriminate(source, sample)[-1], FOOLED)}
        loss = weights.adversarial_weight * metrics["G_adversarial"]
        for name, (weight, distance) in terms.items():
            metrics[name] = distance(volume(reconstruction), volume(target))
            if name == "segmentation" and not weights.segmentation_gradient:
                metrics[name] = jax.lax.stop_gradient(metrics[name])
            loss = loss + weight * metrics[name]
        return loss, {"loss_G": loss} | metrics

    return discriminator_loss, generator_loss


def _mean_squared_error(fake, real):
    return jnp.square(fake - real).mean()
