"""Flags of systems that make masks."""

from jax_pix2pix.errors import ConfigError


def mask_options(config, mc_dropout, threshold, components):
    """(mc_dropout, threshold) of `launch.predict` and `launch.evaluate`, None being the config's.

    Raises:
        ConfigError: names the flag that does not fit.
    """
    classes = config.generator.get("classes", 1)
    if mc_dropout is None:
        mc_dropout = config.evaluation.mc_dropout
    for name, value in (("mc_dropout", mc_dropout), ("largest_components", components)):
        if value < 0:
            raise ConfigError(f"--{name}={value}: use 0 or more")
    if threshold is None:
        threshold = config.evaluation.threshold
    elif classes > 1:
        raise ConfigError(
            f"--threshold={threshold}: this run has {classes} classes, of which the most probable "
            "one is taken: leave it out"
        )
    elif not 0 < threshold < 1:
        raise ConfigError(f"--threshold={threshold}: use 0 to 1, exclusive")
    return mc_dropout, threshold
