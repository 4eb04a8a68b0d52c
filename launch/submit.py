"""Starts a run on a cluster or cloud: fills in the platform's own file and submits it.

    python -m launch.submit slurm --config=… --workdir=/shared/runs/a --nodes=2 --accelerator=h100:8
    python -m launch.submit local --config=… --workdir=runs/a --nodes=2 --dry_run

The files are templates in `local/`, `slurm/`, `gke/`, `tpu_vm/` and `sky/`; `--dry_run` prints the
file that would be handed to the platform's client, and what `launch/cluster/README.md` says of it
holds by hand too. Flags of launch.train, and fields of the config, are given as to it.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.logs import trackers
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.runs.workdir import build_system
from launch.cluster.accelerators import EXAMPLES, Cpus, Gpus, TpuSlice, accelerator, of_four
from launch.cluster.platforms import PLATFORMS, check_form, render
from launch.process import command, distributed, train_flags  # noqa: F401, for its flags

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "print what would be submitted")
_NODES = flags.DEFINE_integer("nodes", 1, "number of machines, or of processes with `local`", 1)
_ACCELERATOR = flags.DEFINE_string("accelerator", None, f"of each: {EXAMPLES}; local: cpu:1")
_NAME = flags.DEFINE_string("name", None, "name of the job; default the workdir's last part")
# Flags of launch.train: those passed on to it, and those that the platform's template sets.
PASSED_ON = (
    "allow_config_change", "initialization_timeout", "profile_steps", "init_from",
    "init_checkpoint", "shared", "wandb", "mlflow",
)  # fmt: skip
SET_BY_TEMPLATES = {"coordinator_address", "num_processes", "process_id"}

# Flags that only some platforms have.
flags.DEFINE_integer("restarts", 100, "how often a stopped or killed run is started again", 0)
flags.DEFINE_integer("slices", 1, "TPU slices that train together (gke, xpk, tpu_vm)", 1)
flags.DEFINE_string("image", None, "container image, or an image file (Slurm)")
flags.DEFINE_string("time", None, "time limit of one start, as Slurm writes it: 1-00:00:00")
flags.DEFINE_string("partition", None, "Slurm partition")
flags.DEFINE_string("account", None, "Slurm account")
flags.DEFINE_integer("cpus_per_task", None, "CPUs of each process (Slurm)", 1)
flags.DEFINE_string("mem", None, "memory of each node, for instance 400G (Slurm)")
flags.DEFINE_enum("process_per", "gpu", ["gpu", "node"], "one process for each of these (Slurm)")
flags.DEFINE_string("namespace", None, "Kubernetes namespace")
flags.DEFINE_string("queue", None, "Kueue queue, which starts the run when there is room")
flags.DEFINE_string("priority", None, "Kubernetes priority class")
flags.DEFINE_string("service_account", None, "Kubernetes account with access to the data")
flags.DEFINE_string("volume", None, "CLAIM:/path, a persistent volume and where pods see it")
flags.DEFINE_string("secret", None, "Kubernetes secret with variables, WANDB_API_KEY for instance")
flags.DEFINE_string("cluster", None, "xpk cluster")
flags.DEFINE_string("project", None, "Google Cloud project; default for xpk: gcloud's")
flags.DEFINE_string("zone", None, "Google Cloud zone, us-central2-b for instance")
flags.DEFINE_enum("container", "pyxis", ["pyxis", "apptainer"], "what runs --image under Slurm")
flags.DEFINE_bool("spot", False, "use cheaper machines, which may be taken away at any time")
flags.DEFINE_string("repository", None, "git repository from which every worker clones the project")
flags.DEFINE_string("revision", None, "commit or tag of --repository")


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in PLATFORMS:
        raise ConfigError(f"name one platform, {', '.join(PLATFORMS)}, and flags as --name=value")
    (name,) = arguments
    platform = PLATFORMS[name]
    _check_flags(name, platform)
    train_flags.profile_steps()  # refused now, not after a wait in the queue
    trackers.check_address(train_flags.MLFLOW.value)  # the job's file would have it
    device = accelerator(_ACCELERATOR.value or "cpu:1", any_gpu=name == "slurm")
    if isinstance(device, TpuSlice) and (name == "xpk" or (name == "gke" and _NODES.value == 2)):
        device = of_four(device)
    if type(device) not in platform.template:
        raise ConfigError(f"--accelerator={_ACCELERATOR.value}: {name} is not for such")
    _check_paths(platform)
    if "container" in platform.options:
        _check_container()
    if name == "sky":
        _check_sky(device)
    config = train_flags.CONFIG.value
    build_system(config)
    template = platform.template[type(device)]
    given = values(device, platform.options)
    if name == "slurm" and "\\" in given["logs"]:
        raise ConfigError(f"{given['logs']}: Slurm writes no log into a folder with a backslash")
    text = render(template, given)
    if _DRY_RUN.value:
        print(text, end="")
        return 0
    if platform.keeps_files and not (config.data.sample or storage.is_remote(config.data.data_dir)):
        from input_pipeline import prepared  # imports TensorFlow: seconds

        prepared.ensure_prepared(config.data)  # fails now, not after a wait in the queue
    client = shutil.which(platform.client[0])
    if client is None:
        raise ConfigError(
            f"{platform.client[0]} is not installed here: install it, or print what it would get "
            "with --dry_run"
        )
    if platform.keeps_files:
        os.makedirs(given["logs"], exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, os.path.basename(template))
        path.write_text(text, encoding="utf-8")
        return _run([client, *platform.client[1:], path])


def _run(command):
    """Runs the client and passes signals on to it. -> its exit code, as a shell reports it."""
    process = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to both
    code = process.wait()
    return code if code >= 0 else 128 - code


def _train_arguments():
    """Arguments of launch.train: the config with its fields, the workdir, and others if given.

    By --submission, the same at each start, the run counts starts that do not get further.
    """
    config = flags.FLAGS["config"]
    fields = config_flags.get_override_values(config)
    given = [flags.FLAGS[name] for name in ("workdir", *PASSED_ON)]
    return [
        f"--config={config_flags.get_config_filename(config)}",
        *[f"--config.{field}={value}" for field, value in fields.items()],
        *[flag.serialize() for flag in given if flag.present],
        f"--submission={train_flags.SUBMISSION.value or secrets.token_hex(4)}",
    ]


def _check_flags(name, platform):
    """Refuses flags of other platforms, and missing flags that this one needs."""
    every = {option for other in PLATFORMS.values() for option in other.options}
    for option in sorted((every | SET_BY_TEMPLATES) - set(platform.options)):
        if flags.FLAGS[option].present:
            why = platform.lacks.get(option)
            raise ConfigError(f"--{option}: {name} has no such flag{f': {why}' if why else ''}")
    elsewhere = () if name == "local" else ("accelerator",)
    for option in ("config", "workdir", *elsewhere, *platform.required):
        if not flags.FLAGS[option].value:
            raise ConfigError(f"--{option} is missing, which {name} needs")
    for option in platform.options:
        check_form(option, flags.FLAGS[option].value)


def _check_container():
    """Refuses --container without --image, and folders that a container's options cannot name."""
    image = flags.FLAGS["image"].value
    if image is None and flags.FLAGS["container"].present:
        raise ConfigError(
            f"--container={flags.FLAGS['container'].value} runs --image: give that too"
        )
    for folder in _folders() if image else ():
        if re.search("[,:]", folder):
            raise ConfigError(f'{folder}: a container mounts no folder with "," or ":" in its name')


def _folders():
    """Absolute paths of the local folders that the run uses, without subfolders of one of them."""
    config = config_flags.get_config_filename(flags.FLAGS["config"])
    paths = [
        os.getcwd(),
        flags.FLAGS.workdir,
        train_flags.CONFIG.value.data.data_dir,
        os.path.dirname(config),
        *filter(None, [train_flags.INIT_FROM.value]),
    ]
    found = {os.path.abspath(path) for path in paths if not storage.is_remote(path)}
    return sorted(
        folder
        for folder in found
        if not any(str(parent) in found for parent in Path(folder).parents)
    )


def _image():
    """--image, absolute if it is a file: Pyxis looks up a bare name in a registry."""
    image = flags.FLAGS["image"].value
    return os.path.abspath(image) if image and os.path.isfile(image) else image


def _check_paths(platform):
    """Refuses data that a pod or rented machine cannot see, and a workdir that is lost with it."""
    data = train_flags.CONFIG.value.data
    paths: dict[str, str] = {"--workdir": flags.FLAGS.workdir}
    if not data.sample:
        paths["--config.data.data_dir"] = data.data_dir
    if train_flags.INIT_FROM.value:
        paths["--init_from"] = train_flags.INIT_FROM.value
    volume = _volume()
    for flag, path in paths.items():
        if storage.is_remote(path):
            if not re.match("(gs|s3)://[^/]", path):
                raise ConfigError(f"{flag}={path}: use gs://BUCKET/… or s3://BUCKET/…")
        elif not platform.keeps_files and not (
            volume and os.path.normpath(path).startswith(volume["path"] + "/")
        ):
            raise ConfigError(
                f"{flag}={path}: a pod or rented machine has no files of yours, and its own end "
                "with it: use gs://… or s3://…, or with gke a folder in --volume=CLAIM:/path"
            )


def _check_sky(device):
    """Refuses a current folder, a config's path and an accelerator that SkyPilot cannot use."""
    config = config_flags.get_config_filename(flags.FLAGS["config"])
    here = Path.cwd()
    if not (here / "pyproject.toml").is_file() or not (here / "launch/submit.py").is_file():
        raise ConfigError(
            f"{here} is not the project's root, which sky copies to every node: start it there"
        )
    if os.path.isabs(config) or not (here / config).resolve().is_relative_to(here.resolve()):
        raise ConfigError(
            f"--config={config}: use a path relative to the project's root, of which nodes have a "
            "copy"
        )
    if isinstance(device, Gpus) and device.node_selector is None:
        raise ConfigError(
            f"--accelerator={_ACCELERATOR.value}: SkyPilot has to know the kind, h100:8 for "
            "instance"
        )


def _volume():
    """--volume -> {"claim", "path"} or None."""
    value = flags.FLAGS["volume"].value
    claim, _, path = (value or "").partition(":")
    return {"claim": claim, "path": path.rstrip("/")} if value else None


def values(device, options) -> dict[str, Any]:
    """The values that a template may read.

    Returns:
        {each of options: its value, name, nodes, device: TpuSlice, Gpus or Cpus, arguments: those
        of launch.train, image: absolute if it is a file, python: this interpreter, directory: the
        current one, workdir, folders: those that the run reads and writes, logs: folder for the
        platform's log, the workdir if it is local, port: a free one here, volume: {claim, path} or
        None}.
    """
    workdir: str = flags.FLAGS.workdir
    name = _NAME.value or os.path.basename(workdir.rstrip("/"))
    return {option: flags.FLAGS[option].value for option in options} | {
        "name": _label(name),
        "nodes": _nodes(device),
        "device": device,
        "arguments": _train_arguments(),
        "python": sys.executable,
        "directory": os.getcwd(),
        "workdir": workdir,
        "image": _image(),
        "folders": _folders(),
        "logs": os.getcwd() if storage.is_remote(workdir) else os.path.abspath(workdir),
        "port": _free_port(),
        "volume": _volume(),
    }


def _label(name):
    """A name that Slurm, Kubernetes and Google Cloud accept: a short DNS label."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (label if label[:1].isalpha() else f"run-{label}")[:40].strip("-")


def _nodes(device):
    """Checks that the global batch and config.fsdp divide over all devices. -> nodes."""
    config = train_flags.CONFIG.value
    if isinstance(device, TpuSlice):
        if flags.FLAGS["nodes"].present and _NODES.value != device.hosts:
            raise ConfigError(
                f"--nodes={_NODES.value}: leave it out, as --accelerator={_ACCELERATOR.value} says "
                "how many hosts there are"
            )
        slices: int = flags.FLAGS.slices
        nodes, devices = slices * device.hosts, slices * device.chips
        if device.chips % config.fsdp:
            raise ConfigError(
                f"config.fsdp={config.fsdp} does not divide over {device.chips} devices of a slice"
            )
    else:
        if flags.FLAGS.slices > 1:
            raise ConfigError(f"--slices={flags.FLAGS.slices}: only TPUs come in slices")
        nodes = _NODES.value
        devices = nodes * (device.devices if isinstance(device, Cpus) else device.per_node)
    for field, fits in (
        (
            f"data.batch_size={config.data.batch_size}",
            config.data.batch_size % (devices * config.accumulate) == 0,
        ),
        (f"fsdp={config.fsdp}", devices % config.fsdp == 0),
    ):
        if not fits:
            parts = f" and config.accumulate={config.accumulate}" if config.accumulate > 1 else ""
            raise ConfigError(f"config.{field} does not divide over {devices} devices{parts}")
    return nodes


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    command.run(main, positional=True)
