"""Reads MLflow's records in a folder."""

import os

os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # as the writer does

from mlflow.tracking import MlflowClient


def read(store, experiment):
    """-> (client, the one run of an experiment, {name: [(step, value)]})."""
    client = MlflowClient(str(store))
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    histories = {
        key: [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    return client, run, histories
