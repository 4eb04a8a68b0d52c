"""Kinds of runs, by config.task: what a run takes and makes, and so how it predicts and is judged.

Imports no JAX, so that a command can refuse a misfit before importing it.
"""

from jax_pix2pix.errors import ConfigError, lookup

CT_SLICES = "ct_slices"  # label masks -> 8-bit CT slices
XRAY_MASKS = "xray_masks"  # X-rays -> masks
CT_MASKS = "ct_masks"  # CT volumes -> masks
RESIZED_CT_MASKS = "resized_ct_masks"  # whole CT volumes resized to one size -> masks
SYNTHETIC_CT = "synthetic_ct"  # volumes or pictures -> CT in HU
CT_SAMPLES = "ct_samples"  # noise -> CT volumes in HU, scale by scale

# What each kind makes, in words.
KINDS = {
    CT_SLICES: "CT slices of label masks",
    XRAY_MASKS: "masks of X-rays",
    CT_MASKS: "masks of CT volumes",
    RESIZED_CT_MASKS: "masks of CT volumes resized to one size",
    SYNTHETIC_CT: "synthetic CT",
    CT_SAMPLES: "CT volumes of noise",
}
SPLITS = ("train", "validation", "test")
# Options of an evaluation.
OF_MASKS = ("mc_dropout", "largest_components", "fill_holes")
OF_SAMPLES = ("count", "seed", "volumes")
MASKS = (XRAY_MASKS, CT_MASKS, RESIZED_CT_MASKS)


def kind_of(config):
    """config.task, which is one of KINDS.

    Raises:
        ConfigError: config.task is none of KINDS.
        AttributeError: the config has none.
    """
    return lookup({name: name for name in KINDS}, "task", config.task)


def makes_masks(config):
    return kind_of(config) in MASKS


def has_scales(config):
    """Whether the run trains scale after scale, each in a workdir of its own."""
    return kind_of(config) == CT_SAMPLES


def evaluated_split(config, split, options):
    """The split that an evaluation with these options scores; None is the default.

    Raises:
        ConfigError: an option does not fit what the run makes.
    """
    kind = kind_of(config)
    for name in options:
        if name not in OF_MASKS + OF_SAMPLES:
            raise ConfigError(f"{name} is no option of an evaluation")
    for names, whose, fits in (
        (OF_MASKS, "of systems that make masks", kind in MASKS),
        (OF_SAMPLES, "of pyramids", kind == CT_SAMPLES),
    ):
        given = [name for name in names if name in options]
        if given and not fits:
            one = len(given) == 1
            raise ConfigError(
                f"{' and '.join(given)} {'is' if one else 'are'} {whose}: leave "
                f"{'it' if one else 'them'} out"
            )
    if kind != CT_SAMPLES:
        return split or "test"
    if split not in (None, "train"):
        raise ConfigError(
            f"split={split}: a pyramid is evaluated on its training volumes; leave it out"
        )
    return "train"
