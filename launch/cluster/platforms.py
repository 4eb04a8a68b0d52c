"""The platforms of launch.submit: each one's template, client and flags."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import jinja2

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.safety.shown import is_plain, shown
from launch.cluster.accelerators import Cpus, Gpus, TpuSlice


@dataclasses.dataclass(frozen=True)
class Platform:
    """How a run is submitted to one platform.

    template: path in this folder, by the type of accelerator.
    client: the command that takes the filled-in file as its last argument.
    options: flags of launch.submit that the template reads.
    required: flags that must be given.
    keeps_files: whether a restart finds what the run wrote to the machine's disk.
    lacks: flags that one may look for, and what to do without.
    """

    template: dict[type, str]
    client: tuple[str, ...]
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    keeps_files: bool = True
    lacks: dict[str, str] = dataclasses.field(default_factory=dict)


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
            "slices",
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
        ("restarts", "slices", "image", "namespace", "priority", "cluster", "project", "zone"),
        ("image", "cluster"),
        keeps_files=False,
    ),
    "tpu_vm": Platform(
        {TpuSlice: "tpu_vm/create.sh"},
        ("bash",),
        ("restarts", "slices", "project", "zone", "spot", "repository", "revision"),
        ("project", "zone", "repository", "revision"),
        keeps_files=False,
    ),
    "sky": Platform(
        {Gpus: "sky/train.yaml", TpuSlice: "sky/train.yaml"},
        ("sky", "jobs", "launch", "--yes", "--detach-run"),
        ("restarts", "spot"),
        keeps_files=False,
        lacks={"slices": "SkyPilot asks for one slice; use tpu_vm, gke or xpk"},
    ),
}


_DNS_LABEL = r"[a-z0-9]([a-z0-9-]{,61}[a-z0-9])?"
_DNS_NAME = r"[a-z0-9]([a-z0-9.-]{,251}[a-z0-9])?"
_WORD = r"\w[\w.:@+,-]{,127}"
# What the platforms accept as these flags, with an example. In none a value begins with "-", which
# a program would take for an option.
FORMS = {
    "time": (r"\d[\d:-]*|UNLIMITED|INFINITE", "1-00:00:00"),
    "mem": (r"\d+[KMGT]?", "400G"),
    "partition": (_WORD, "gpu"),
    "account": (_WORD, "lungs"),
    "namespace": (_DNS_LABEL, "ml"),
    "queue": (_DNS_LABEL, "user-queue"),
    "priority": (_DNS_NAME, "high"),
    "service_account": (_DNS_NAME, "trainer"),
    "secret": (_DNS_NAME, "wandb"),
    "cluster": (_WORD, "tpus"),
    "project": (_WORD, "some-project"),
    "zone": (_WORD, "us-central2-b"),
    "repository": (r"[\w./~][^\s]*", "https://example.com/jax_pix2pix.git"),
    "revision": (r"\w[\w./+-]*", "a tag, or the commit's whole number"),
    "image": (r"[^\s-].*", "europe-docker.pkg.dev/p/r/train:1"),
    "volume": (rf"{_DNS_NAME}:/\w[^:]*", "runs:/runs"),
}


def check_form(option, value):
    """Raises ConfigError if a platform would not accept a flag's value."""
    form, example = FORMS.get(option, (".*", ""))
    if isinstance(value, str) and not re.fullmatch(form, value, re.ASCII):
        raise ConfigError(f"--{option}={value} is not of the form that it needs: {example}")


def render(template, values):
    """Fills in a template of this folder. A name that it reads without a value is an error.

    Filters of the templates: `quote` and `join_quoted` for a shell, `yaml` for a string of YAML,
    `literal` for a string in which Kubernetes would replace $(NAME), and `sbatch` for a line of
    #SBATCH. None of them makes two lines of one, which here-documents and block scalars rely on:
    a value with a character that could is refused.

    Raises:
        ConfigError: a value has a control character or bytes that are no UTF-8.
    """
    for text in _texts(values):
        if not is_plain(text):
            raise ConfigError(f'"{shown(text)}" has control characters or is no UTF-8')
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "quote": shlex.quote,
        "join_quoted": shlex.join,
        "yaml": _yaml,
        "literal": lambda text: text.replace("$", "$$"),
        "sbatch": _sbatch,
    }
    return environment.get_template(template).render(values)


def _texts(value):
    """Yields all strings in nested dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _yaml(text):
    """A string of YAML: one of JSON, but for the escapes of characters that have no glyph."""
    characters = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in characters)


def _sbatch(text):
    """A word of an #SBATCH line, in which Slurm takes a backslash for an escape, quoted or not."""
    return shlex.quote(text.replace("\\", r"\\"))
