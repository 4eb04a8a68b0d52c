"""Flags of launch.train, which launch.submit takes too and passes on."""

import re

from absl import flags
from ml_collections import config_flags

from jax_pix2pix.errors import ConfigError

CONFIG = config_flags.DEFINE_config_file("config", None, "the config: NAME or file.py, [:variant]")
WORKDIR = flags.DEFINE_string("workdir", None, "where the run writes; resumed if it exists")
ALLOWED = flags.DEFINE_list(
    "allow_config_change",
    [],
    "fields that may differ from the workdir's config.json, log_every_steps,data.cache for "
    "instance; no fields that change what is trained",
)
SUBMISSION = flags.DEFINE_string(
    "submission",
    None,
    "a name that whatever starts this run again gives each time: the fourth start in a row without "
    "a newer checkpoint ends with 1. launch.submit gives one; without it starts are not counted",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "a run, a folder, s3:// or gs://, with whose weights this one begins; optimizers and steps "
    "begin anew. The same again when it is resumed",
)
INIT_CHECKPOINT = flags.DEFINE_string(
    "init_checkpoint", "last", "the checkpoint of --init_from: best, last or a step"
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "FIRST:LAST, 100:105 for instance: steps to profile, into the workdir"
)
WANDB = flags.DEFINE_string("wandb", None, "also log to this project of Weights & Biases")
MLFLOW = flags.DEFINE_string(
    "mlflow", None, "also log to MLflow: a folder, or the http address of a tracking server"
)


def profile_steps():
    """--profile_steps as (first, last); None without it.

    Raises:
        ConfigError: it is malformed.
    """
    text = _PROFILE_STEPS.value
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--profile_steps={text}: use two steps from 1 on, the first one first, 100:105 for "
            "instance"
        )
    return int(match[1]), int(match[2])
