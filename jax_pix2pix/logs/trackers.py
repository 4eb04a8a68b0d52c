"""Weights & Biases and MLflow, if a run asks for them; neither is needed otherwise.

A run there has the name of the workdir as the user gave it; the whole path and the revision of the
code accompany the config. A resumed run continues the same run there: its id is in
tracker_<name>.json of the workdir. Steps that were sent before are not sent again, even if they are
trained again. A tracker that is added later also gets the lines that metrics.jsonl already has.
"""

import contextlib
import importlib.util
import json
import os
import re
import time
import uuid
from pathlib import Path

from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.logs.metrics_log import points
from jax_pix2pix.logs.writers import CLOSE_SECONDS, InBackground
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.redaction import redacted_value
from jax_pix2pix.safety.shown import shown

PARAMS_PER_CALL = 100  # MLflow's limits
PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 5000, 250


def check_installed(wandb_project, mlflow_uri):
    """Checks the packages of requested trackers; None requests none.

    Raises:
        ConfigError: a package is missing; says how to get it. Or the address has a password.
    """
    check_address(mlflow_uri)
    for asked, flag, module, package in (
        (wandb_project, "wandb", "wandb", "wandb"),
        (mlflow_uri, "mlflow", "mlflow", "mlflow-skinny"),
    ):
        if asked is not None and not asked:
            raise ConfigError(f"--{flag} is empty: give it a value, or leave it out")
        # A folder of that name on Python's path, such as W&B itself makes, is no package.
        if asked and getattr(importlib.util.find_spec(module), "origin", None) is None:
            raise ConfigError(f"--{flag} needs a package that is missing: pip install {package}")


def check_address(mlflow_uri):
    """Raises ConfigError for a password in MLflow's address; None is no address.

    W&B records the command line, job files hold it, and others on the machine see it.
    """
    if mlflow_uri and (shown := redacted_value(mlflow_uri)) != mlflow_uri:
        raise ConfigError(
            f"--mlflow={shown}: a password or token does not belong there: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )


def check_usable(wandb_project, mlflow_uri):
    """Checks what can be known before a run begins, without a network.

    Raises:
        ConfigError: nobody is logged in to W&B; MLflow does not know such an address.
    """
    if wandb_project:
        import wandb

        settings = wandb.setup(wandb.Settings(silent=True)).settings
        try:
            ready = settings.mode != "online" or wandb.login(prompt=False, verify=False)
            problem = "" if ready else "nobody is logged in to Weights & Biases"
        except wandb.Error as error:  # an invalid key
            problem = " ".join(str(error).split())[:200]
        if problem:
            raise ConfigError(
                f"--wandb={wandb_project}: {problem}: run wandb login, or set WANDB_API_KEY, or "
                "WANDB_MODE=offline"
            )
    if mlflow_uri:
        try:
            _mlflow_client(mlflow_uri)
        except Exception as error:  # of several kinds; their texts are about its registry
            reason = f"{error}; " if isinstance(error, OSError) else ""
            raise ConfigError(
                f"--mlflow={mlflow_uri}: {reason}use a folder of this machine or "
                "the http address of a server; a database needs pip install mlflow"
            ) from error


def wandb_writer(project, given):
    """-> (workdir, history) -> Writer, as `Logbook` takes them.

    given: the workdir as the user gave it; if it is a store's, the writer's workdir is a copy.
    """
    return lambda workdir, history: InBackground(
        "Weights & Biases", lambda: Wandb(project, workdir, history, _identity(given, workdir))
    )


def mlflow_writer(uri, experiment, given):
    """A writer for MLflow. experiment: its name; MLFLOW_EXPERIMENT_NAME overrides it.

    Raises:
        ConfigError: the uri has a password.
    """
    check_address(uri)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment
    return lambda workdir, history: InBackground(
        "MLflow",
        lambda: Mlflow(uri, experiment, workdir, history, _identity(given, workdir)),
    )


class _Record:
    """The workdir's record of a run at one tracker: tracker_<name>.json, {target: fields}.

    Raises:
        WorkdirError: the file is damaged.
    """

    def __init__(self, workdir, name, target):
        self._workdir, self._path = workdir, os.path.join(workdir, f"tracker_{name}.json")
        self._target, self._all = target, {}
        try:
            with contextlib.suppress(FileNotFoundError):
                self._all = safe_files.read_json(self._path, workdir)
            self.fields = dict(self._all.get(target, {}))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise WorkdirError(
                f"{self._path} is damaged: delete it for a new run at that tracker"
            ) from None

    def write(self, **fields):
        self.fields = self.fields | fields
        self._all[self._target] = self.fields
        safe_files.write(self._path, json.dumps(self._all, indent=2), self._workdir)


def _identity(given, workdir):
    """(name, {field: value}) by which a run is told from others; see `wandb_writer`.

    The name is the last part of the given workdir; a pyramid's scale is appended.
    """
    from jax_pix2pix.environment import environment  # it needs a device, which a run has

    path = given.rstrip("/") if "://" in given else os.path.abspath(given)
    name, scale = path.rpartition("/")[2], Path(workdir).name
    if re.fullmatch(r"scale_\d+", scale) and scale != name:
        name, path = f"{name}/{scale}", f"{path}/{scale}"
    return shown(name), {"workdir": shown(path), "revision": environment()["revision"]}


class Wandb:
    """A run of Weights & Biases with its recorded id. WANDB_MODE, WANDB_ENTITY, ... apply.

    W&B does not tell which steps it has, so metrics.jsonl decides: lines that were on their way
    when a process was killed may be missing at W&B.

    Args:
        history: {"kept": lines of metrics.jsonl that stay, "last": {split: the last step that any
            line had}}.
        identity: from `_identity`.
    """

    def __init__(self, project, workdir, history, identity):
        import wandb

        self._wandb = wandb
        self._record = _Record(workdir, "wandb", project)
        known = "pictures" in self._record.fields
        self._last = history["last"] if known else {}
        if "id" not in self._record.fields:
            self._record.write(id=uuid.uuid4().hex[:12])
        self._run = wandb.init(
            project=project,
            id=self._record.fields["id"],
            name=identity[0],
            dir=workdir,
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                finish_timeout=0.75 * CLOSE_SECONDS,  # else endless, at the process's end too
                finish_timeout_raises=True,
            ),
        )
        self.config(identity[1])
        if not known:
            self._record.write(pictures={})
            for line in history["kept"]:
                self.scalars(line["step"], line["split"], points(line))

    def config(self, values):
        self._run.config.update(values, allow_val_change=True)

    def scalars(self, step, split, values):
        if values and step > self._last.get(split, -1):
            self._run.log({f"{split}/{key}": value for key, value in values.items()}, step=step)

    def image(self, step, name, image):
        pictures = self._record.fields["pictures"]
        if step > pictures.get(name, -1):
            self._run.log({name: self._wandb.Image(image)}, step=step)
            self._record.write(pictures=pictures | {name: step})

    def close(self, finished):
        self._run.finish(exit_code=0 if finished else 1)
        self._wandb.teardown()  # returns when W&B's own process has written everything and ended


class Mlflow:
    """A run of MLflow, which tells which steps it has: none is sent twice, none is missing.

    Args:
        uri: a folder, file:..., http(s)://... of a server, or a database, for which all of MLflow
            has to be installed.
        experiment: its name; it is created if missing.
        history, identity: as for Wandb.
    """

    def __init__(self, uri, experiment, workdir, history, identity):
        self._client = _mlflow_client(uri)
        from mlflow import entities

        self._entities = entities
        record = _Record(workdir, "mlflow", uri)
        if "run_id" in record.fields:
            self._client.update_run(record.fields["run_id"], status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self._client.create_experiment(experiment)
            run = self._client.create_run(number, run_name=identity[0])
            record.write(run_id=run.info.run_id)
        self._run_id = record.fields["run_id"]
        for name, value in identity[1].items():
            self._client.set_tag(self._run_id, name, str(value)[:TAG_CHARACTERS])
        data = self._client.get_run(self._run_id).data
        self._params = set(data.params)
        self._last = {
            key: max(x.step for x in self._client.get_metric_history(self._run_id, key))
            for key in data.metrics
        }
        for line in history["kept"]:
            self.scalars(line["step"], line["split"], points(line))

    def config(self, values):
        """Sends only values that are not there yet: MLflow keeps the first value of each."""
        new = [
            self._entities.Param(name, str(value)[:PARAM_CHARACTERS])
            for name, value in _mlflow_keys(values).items()
            if name not in self._params
        ]
        for first in range(0, len(new), PARAMS_PER_CALL):
            batch = new[first : first + PARAMS_PER_CALL]
            self._client.log_batch(self._run_id, params=batch)

    def scalars(self, step, split, values):
        now = int(time.time() * 1000)  # in ms, as MLflow expects
        values = _mlflow_keys({f"{split}/{key}": value for key, value in values.items()})
        new = [
            self._entities.Metric(key, value, now, step)
            for key, value in values.items()
            if step > self._last.get(key, -1)
        ]
        if new:
            self._client.log_batch(self._run_id, metrics=new)

    def image(self, step, name, image):
        """Gives a step's picture its own name, so that another picture of that step replaces it."""
        self._client.log_image(self._run_id, image, artifact_file=f"{name}/step_{step:08d}.png")

    def close(self, finished):
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


def _mlflow_keys(values):
    """The values by names that MLflow takes: a store in a folder makes paths of them."""
    keys = {}
    for name, value in values.items():
        parts = re.sub(r"[^\w./ :-]", "_", name, flags=re.ASCII).split("/")
        key = "/".join(part for part in parts if part.strip("."))
        keys[key[:KEY_CHARACTERS]] = value
    return keys


def _mlflow_client(uri):
    # A folder is all that a single machine needs; MLflow accepts one only with this variable.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)
