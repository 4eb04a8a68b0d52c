"""The platforms of launch.submit: each one's template, client and flags."""

import dataclasses
import shlex
from pathlib import Path

import jinja2

from launch.cluster.accelerators import Cpus, Gpus, TpuSlice


@dataclasses.dataclass(frozen=True)
class Platform:
    """How a run is submitted to one platform.

    template: path in this folder, by the type of accelerator.
    client: the command that takes the filled-in file as its last argument.
    options: flags of launch.submit that the template reads.
    required: flags that must be given.
    keeps_files: whether a restart finds what the run wrote to the machine's disk.
    """

    template: dict[type, str]
    client: tuple[str, ...]
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    keeps_files: bool = True


PLATFORMS = {
    "local": Platform({Cpus: "local/train.sh"}, ("bash",)),
    "slurm": Platform(
        {Cpus: "slurm/train.sbatch", Gpus: "slurm/train.sbatch"},
        ("sbatch",),
        (
            *("restarts", "image", "container", "time", "partition", "account"),
            *("cpus_per_task", "mem", "process_per"),
        ),
    ),
    "gke": Platform(
        {TpuSlice: "gke/jobset_tpu.yaml", Gpus: "gke/job_gpu.yaml"},
        ("kubectl", "create", "-f"),
        (
            "restarts",
            "image",
            "namespace",
            "queue",
            "priority",
            "service_account",
            "volume",
            "secret",
            "spot",
        ),
        ("image",),
        keeps_files=False,
    ),
    "xpk": Platform(
        {TpuSlice: "gke/xpk.sh"},
        ("bash",),
        ("restarts", "image", "namespace", "priority", "cluster", "project", "zone"),
        ("image", "cluster"),
        keeps_files=False,
    ),
    "tpu_vm": Platform(
        {TpuSlice: "tpu_vm/create.sh"},
        ("bash",),
        ("restarts", "project", "zone", "spot", "repository", "revision"),
        ("project", "zone", "repository", "revision"),
        keeps_files=False,
    ),
    "sky": Platform(
        {Gpus: "sky/train.yaml", TpuSlice: "sky/train.yaml"},
        ("sky", "jobs", "launch", "--yes", "--detach-run"),
        ("restarts", "spot"),
        keeps_files=False,
    ),
}


def render(template, values):
    """Fills in a template of this folder. A name that it reads without a value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quote": shlex.quote, "join_quoted": shlex.join}
    return environment.get_template(template).render(values)
