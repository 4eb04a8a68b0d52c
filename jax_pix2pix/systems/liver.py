"""CT -> liver mask, or several classes, in 2D and 3D: SegAN's critic compares masked images."""

from jax_pix2pix.adversarial import System
from jax_pix2pix.augmentation import augmentation
from jax_pix2pix.errors import ConfigError, lookup
from jax_pix2pix.intensity import DTYPES, full_precision, scaler
from jax_pix2pix.losses.diff_augment import diff_augment
from jax_pix2pix.losses.terms import feature_distance, l1, soft_dice
from jax_pix2pix.models.critic import Critic, foreground
from jax_pix2pix.models.encoder_decoder import EncoderDecoder
from jax_pix2pix.optimizer import adam, clipped, constant_then_linear
from jax_pix2pix.tasks.segmentation import segmentation


def build(config):
    """config: configs/liver.py or liver_3d.py with steps_per_epoch filled in -> System."""
    dtype = lookup(DTYPES, "dtype", config.dtype)
    weights = config.loss
    task = segmentation(config, config.generator.classes, probabilities=lambda fake: fake)
    if weights.critic not in ("maximise", "minimise"):
        raise ConfigError(f'config.loss.critic is "{weights.critic}": use maximise or minimise')
    sign = -1 if weights.critic == "maximise" else 1

    def discriminator_loss(discriminate, source, target, fake, key):
        del key
        distance = feature_distance(discriminate(source, target), discriminate(source, fake))
        return sign * distance, {"loss_D": sign * distance}

    def generator_loss(discriminate, source, target, fake):
        distance = feature_distance(discriminate(source, target), discriminate(source, fake))
        absolute_error = l1(fake, target)
        loss = weights.l1_weight * absolute_error + weights.feature_weight * distance
        metrics = {"l1": absolute_error, "feature_distance": distance}
        if weights.dice_weight:
            metrics["soft_dice"] = soft_dice(foreground(fake), foreground(target))
            loss = loss + weights.dice_weight * metrics["soft_dice"]
        return loss, {"loss_G": loss} | metrics

    def target(stored):
        return task.network_target(stored, full_precision(config))

    source, _ = scaler(config, config.data.source_range)
    learning_rate = constant_then_linear(config)
    discriminator_optimizer = adam(config, learning_rate)
    if config.discriminator.constraint == "clip":
        if not weights.clip > 0:
            raise ConfigError(f"config.loss.clip={weights.clip}: use a positive bound")
        discriminator_optimizer = clipped(discriminator_optimizer, weights.clip)
    return System(
        generator=EncoderDecoder(**config.generator, dtype=dtype),
        discriminator=Critic(**config.discriminator, dtype=dtype),
        generator_optimizer=adam(config, learning_rate),
        discriminator_optimizer=discriminator_optimizer,
        learning_rate=learning_rate,
        source=source,
        target=target,
        output=task.probabilities,
        discriminator_loss=discriminator_loss,
        generator_loss=generator_loss,
        task=task,
        augmentation=augmentation(config),
        augment=diff_augment(config.diff_augment),
        ema_decay=config.ema_decay,
        spike_sigmas=config.spike_sigmas,
        accumulate=config.accumulate,
    )
