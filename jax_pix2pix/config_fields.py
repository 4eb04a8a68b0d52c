"""The types and ranges of a config's fields, looked at before anything is built from it. No JAX.

A workdir may be somebody else's, and so may its config.json: a number in it must not decide how
much memory is taken or how long a loop is. Fields of other systems, which are not listed here, are
held to plain values and, by the ends of their names, to the same ranges.
"""

from jax_pix2pix.errors import ConfigError

STEPS = 2**31 - 1  # optimizers count steps in int32
SIDE = 8192  # pixels; `prepare` stores no larger images
HALVINGS = 13  # of SIDE to one pixel
WIDTH = 2**14  # channels of the first level; 64 is usual
TRAINED_NUMBERS = 2**36  # of a batch, over all hosts: a thousand volumes of 384 x 384 x 384
OPENED_NUMBERS = 2**31  # the same for one machine that reads a workdir: 2 GB, as float32 9 GB
NESTED = 3  # config.evaluation.regions.lungs
TEXT = 4096  # characters, as of a path
ENTRIES = 1024  # of a list, and fields in all

# (least, most) of whole numbers.
WHOLE = {
    "seed": (0, 2**32 - 1), "data.seed": (0, 2**32 - 1),  # a random key has so many
    "epochs": (1, STEPS), "constant_epochs": (0, STEPS), "steps_per_epoch": (0, STEPS),
    "fsdp": (1, 2**16), "accumulate": (1, 2**20), "data.accumulate": (1, 2**20),
    "log_every_steps": (1, STEPS), "text_log_every_epochs": (1, STEPS),
    "sample_every_epochs": (1, STEPS), "checkpoint_every_epochs": (1, STEPS),
    "checkpoint_every_steps": (0, STEPS), "keep_last": (1, STEPS), "max_skipped": (1, STEPS),
    "heartbeat_seconds": (1, 10**6),
    "data.batch_size": (1, 2**20), "data.image_size": (1, SIDE), "data.stored_size": (1, SIDE),
    "data.load_size": (0, SIDE), "data.patch_size": (0, SIDE), "data.depth": (0, SIDE),
    "data.context": (0, 64),  # each neighbour is a channel
    "data.source_channels": (1, 64),
    "data.folds": (0, 1000), "data.fold": (0, 999),
    "data.repeat": (1, 10**4), "data.crops": (0, 10**4),  # lists have so many entries a volume
    "generator.width": (1, WIDTH), "discriminator.width": (1, WIDTH),
    "generator.depth": (1, HALVINGS), "generator.dropout_levels": (0, HALVINGS),
    "generator.self_attention": (0, HALVINGS),
    "generator.classes": (1, 255),  # masks are uint8
    "discriminator.strided_levels": (0, HALVINGS), "discriminator.dense_levels": (0, 32),
    "discriminator.scales": (1, HALVINGS),
    "loss.ms_ssim_levels": (1, HALVINGS),
    "pyramid.dimensions": (2, 3), "pyramid.min_size": (1, SIDE), "pyramid.max_size": (1, SIDE),
    "pyramid.depth_divisor": (1, SIDE), "pyramid.scale": (0, 99),
    # Updates are unrolled in the compiled step.
    "pyramid.discriminator_updates": (1, 100), "pyramid.generator_updates": (1, 100),
    "evaluation.mc_dropout": (0, 10**4),
}  # fmt: skip
# (least, most) of numbers.
REAL = {
    "optimizer.learning_rate": (0, 1e38), "spike_sigmas": (0, 1e6),
    "watchdog_seconds": (0, 1e8),  # threads wait no longer than some 1e9
    "data.isotropic_mm": (0, 1e3), "data.empty_slices": (0, 1),
    "data.test_fraction": (0, 1), "data.validation_fraction": (0, 1),
    "augment.rotation_degrees": (0, 180), "augment.scale": (0, 10), "augment.gamma": (0, 10),
    "augment.contrast": (0, 10), "augment.brightness": (0, 2), "augment.noise": (0, 2),
    "augment.blur": (0, 16), "augment.share": (0, 1),
    "evaluation.threshold": (0, 1), "loss.clip": (0, 1e6),
    "pyramid.factor": (1.05, 100),  # at 1.05 there are 186 scales of SIDE
    "pyramid.noise_factor": (0, 1e6),
}  # fmt: skip
WEIGHT = (0, 1e9)
SHARES = ("ema_decay", "optimizer.b1", "optimizer.b2", "generator.dropout")  # 1 is excluded
FLAGS = (
    "data.flip", "data.lung_masks", "data.resample", "generator.use_bias", "generator.skips",
    "generator.attention_gates", "discriminator.spectral_norm", "pyramid.border_noise",
    "loss.segmentation_gradient",
)  # fmt: skip
# Which words a text may be; () where others say so, or any will do.
STORED = ("uint8", "uint16", "int16")
TEXTS = {
    "system": (), "task": (), "dtype": ("float32", "bfloat16", "float64"), "diff_augment": (),
    "data.data_dir": (), "data.sample": (), "data.dataset": (), "data.cache": (),
    "data.from_store": ("auto", "copy", "stream"),
    "data.on_error": (), "data.source": (), "data.target": (), "data.source_type": STORED,
    "data.target_type": STORED, "data.mask_resize": (), "data.modality": (), "data.plane": (),
    "data.given_axes": (), "data.geometry": ("agreed", "sform", "qform"), "data.split_by": (),
    "data.source_side": (), "data.patient_pattern": (),
    "data.test_patients": (), "data.validation_patients": (),
    "generator.norm": (), "generator.output": (), "discriminator.norm": (),
    "discriminator.constraint": (), "evaluation.per": (), "loss.adversarial": (), "loss.ssim": (),
    "loss.critic": (), "loss.projection": (), "loss.perceptual_weights_file": (),
    "loss.segmentation_weights_file": (),
}  # fmt: skip
# Lists of numbers. Those whose names end in a word of PAIRS are two, the smaller first.
LISTS = ("data.mask_values", "data.test_subsets", "data.validation_subsets", "data.spacing_mm")
PAIRS = ("_range", "window_hu", "clip_hu", "mr_percentiles")
TRIPLE, SPACING_MM = "data.given_spacing_mm", (0.01, 50)  # three numbers, or none
# What float32 scales without a loss: closer or larger numbers would make NaN of some images.
RANGE = (
    "two numbers, the smaller one first, from -1000000 to 1000000 and not within 0.00001 of each "
    "other"
)
VALUES = frozenset((*WHOLE, *REAL, *SHARES, *FLAGS, *TEXTS, *LISTS, TRIPLE))


def check(config, numbers=TRAINED_NUMBERS):
    """Checks each field's type and range, and the sizes that follow from several.

    Args:
        numbers: the most that a batch may hold; of accumulated parts, the most of one.
        config: nested dicts, as ConfigDict.to_dict gives them or as JSON holds them. Fields may be
            missing, which whoever reads them will tell.

    Raises:
        ConfigError: names the field, and says what to use.
    """
    fields = {}
    for field, value in _flat(config):
        if len(fields) == ENTRIES:
            raise ConfigError(f"the config has more than {ENTRIES} fields")
        fields[field] = value
        expected = _expected(field, value)
        if expected:
            raise ConfigError(f"config.{field}={shown(value)}: use {expected}")
    check_steps(config)
    side, stored = fields.get("data.image_size", 0), fields.get("data.stored_size", SIDE)
    if side > stored:
        raise ConfigError(
            f"config.data.image_size={side} is above config.data.stored_size={stored}: use at most "
            "that, or prepare data with a larger stored_size"
        )
    for name in ("image_size", "load_size", "patch_size", "stored_size"):
        _check_batch(fields, name, numbers)


def check_steps(config):
    """Raises ConfigError if epochs have more steps than can be counted, once these are known."""
    epochs, steps = config.get("epochs", 0), config.get("steps_per_epoch", 0)
    if epochs * steps > STEPS:
        raise ConfigError(
            f"config.epochs={epochs} of {steps} steps are more steps than can be counted: use at "
            f"most {STEPS} in all"
        )


def shown(value):
    """A value in a message: at most 80 characters, and plain ones."""
    return ascii(value) if isinstance(value, str) and len(value) < 80 else ascii(value)[:80]


def _flat(config, prefix="", depth=1):
    """Yields (dotted name, value); refuses what is no tree of named fields."""
    for key, value in config.items():
        field = f"{prefix}{key}"
        if not (isinstance(key, str) and 0 < len(key) <= 64 and key.isprintable()):
            raise ConfigError(f"config.{prefix}{shown(key)}: a field has a name of 1 to 64 letters")
        if not isinstance(value, dict):
            yield field, value
        elif field in VALUES or field.endswith((*PAIRS, "_weight")):
            raise ConfigError(f"config.{field} holds fields: use a value")
        elif depth == NESTED:
            raise ConfigError(f"config.{field} holds fields, which are nested too deeply")
        else:
            yield from _flat(value, f"{field}.", depth + 1)


def _expected(field, value):
    """What a field should be, in words; None if it is."""
    if field in WHOLE:
        least, most = WHOLE[field]
        return _number_out_of(least, most, value, _is_whole(value), "a whole number")
    if field in REAL or field.endswith("_weight"):
        least, most = REAL.get(field, WEIGHT)
        return _number_out_of(least, most, value, _is_number(value), "a number")
    if field in SHARES or field.endswith(".dropout"):
        right = _is_number(value) and 0 <= value < 1
        return None if right else "a share from 0 to below 1"
    if field in FLAGS:
        return None if isinstance(value, bool) else "true or false"
    if field in TEXTS:
        return _wrong_text(value, TEXTS[field])
    if field.endswith(PAIRS):
        return None if _is_range(value) else RANGE
    if field == TRIPLE:
        low, high = SPACING_MM
        right = _is_list(value) and len(value) in (0, 3) and all(map(_is_number, value))
        right = right and all(low <= mm <= high for mm in value)
        return None if right else f"three numbers of {low} to {high}, or none"
    if field in LISTS or field.startswith("evaluation.regions."):
        return None if _is_list(value) and all(map(_is_number, value)) else "a list of numbers"
    plain = all(map(_is_plain, value)) if _is_list(value) else _is_plain(value)
    return None if plain else "a finite number, a text, true or false, or a short list of these"


def _number_out_of(least, most, value, is_one, kind):
    if not is_one:
        return f"{kind}, {least} to {most}" if least else f"{kind}, 0 or more"
    if value < least:
        return f"{least} or more"
    return f"at most {most}" if value > most else None


def _wrong_text(value, words):
    if not isinstance(value, str) or len(value) > TEXT or not value.isprintable():
        return f"a text of at most {TEXT} characters in one line"
    return f"one of {', '.join(words)}" if words and value not in words else None


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    """Whether it is a finite number that float32 holds."""
    return (_is_whole(value) or isinstance(value, float)) and abs(value) < 1e38


def _is_range(value):
    """Whether it is what RANGE says, relative to numbers above 1."""
    if not (_is_list(value) and len(value) == 2 and all(map(_is_number, value))):
        return False
    least, most = value
    largest = max(abs(least), abs(most))
    return largest <= 1e6 and most - least >= 1e-5 * max(largest, 1)


def _is_list(value):
    return isinstance(value, list | tuple) and len(value) <= ENTRIES


def _is_plain(value):
    if isinstance(value, str):
        return len(value) <= TEXT
    return value is None or isinstance(value, bool) or _is_number(value)


def _check_batch(fields, side, numbers):
    """Refuses a batch of more numbers than an array may have."""
    pixels = fields.get(f"data.{side}", 0) ** 2 * max(fields.get("data.depth", 0), 1)
    channels = fields.get("data.source_channels", 1) * (1 + 2 * fields.get("data.context", 0))
    batch = fields.get("data.batch_size", 1)
    if pixels * channels * batch > numbers * fields.get("data.accumulate", 1):
        raise ConfigError(
            f"config.data.batch_size={batch} of config.data.{side}={fields[f'data.{side}']} makes "
            f"batches of more than {numbers} numbers: use fewer or smaller examples"
        )
