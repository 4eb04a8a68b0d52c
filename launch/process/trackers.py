"""The trackers that a run's flags --wandb and --mlflow ask for."""

from jax_pix2pix.logs import trackers
from jax_pix2pix.runs.processes.first_process import on_first_process
from launch.process import train_flags


def chosen(experiment, workdir):
    """Writers for the flags, as `Logbook` takes them, checked before anything is written.

    Args:
        experiment: the MLflow experiment, which groups runs.
        workdir: as the user gave it.

    Raises:
        ConfigError, WorkdirError: a tracker cannot work here; raised on all processes.
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
