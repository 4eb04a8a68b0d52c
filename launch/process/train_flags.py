"""Flags of launch.train, which launch.submit takes too and passes on."""

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "the config: NAME or file.py, [:variant]")
WORKDIR = flags.DEFINE_string("workdir", None, "where the run writes; resumed if it exists")
ALLOWED = flags.DEFINE_list(
    "allow_config_change",
    [],
    "fields that may differ from the workdir's config.json, log_every_steps,data.cache for "
    "instance; no fields that change what is trained",
)
WANDB = flags.DEFINE_string("wandb", None, "also log to this project of Weights & Biases")
MLFLOW = flags.DEFINE_string(
    "mlflow", None, "also log to MLflow: a folder, or the http address of a tracking server"
)
