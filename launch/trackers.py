"""Flags of the trackers of a run: --wandb=PROJECT and --mlflow=TRACKING_URI."""

from absl import flags

from jax_pix2pix import trackers
from jax_pix2pix.first_process import on_first_process

_WANDB = flags.DEFINE_string("wandb", None, "also log to this project of Weights & Biases")
_MLFLOW = flags.DEFINE_string(
    "mlflow", None, "also log to MLflow: a folder, or the http address of a tracking server"
)


def chosen(experiment, workdir):
    """What the flags ask for, as `Logbook` takes it; looked at before anything is written.

    Args:
        experiment: the name that runs have in MLflow together.
        workdir: as the user gave it.

    Raises:
        ConfigError, WorkdirError: on all processes, what keeps a tracker from working here.
    """
    project, uri = _WANDB.value, _MLFLOW.value
    trackers.check_installed(project, uri)
    if project or uri:
        on_first_process(lambda: trackers.check_usable(project, uri))
    writers = []
    if project:
        writers.append(trackers.wandb_writer(project, workdir))
    if uri:
        writers.append(trackers.mlflow_writer(uri, experiment, workdir))
    return writers
