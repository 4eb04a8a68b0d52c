"""The trackers that a run's flags --wandb and --mlflow ask for."""

from jax_pix2pix.logs import trackers
from jax_pix2pix.runs.first_process import on_first_process
from launch.process import train_flags


def chosen(experiment, workdir):
    """What the flags ask for, as `Logbook` takes it; looked at before anything is written.

    Args:
        experiment: the name that runs have in MLflow together.
        workdir: as the user gave it.

    Raises:
        ConfigError, WorkdirError: on all processes, what keeps a tracker from working here.
    """
    project, uri = train_flags.WANDB.value, train_flags.MLFLOW.value
    trackers.check_installed(project, uri)
    if project or uri:
        on_first_process(lambda: trackers.check_usable(project, uri))
    writers = []
    if project:
        writers.append(trackers.wandb_writer(project, workdir))
    if uri:
        writers.append(trackers.mlflow_writer(uri, experiment, workdir))
    return writers
