"""Every process of a run trains the same network, or the run says which does not, and in what.

Nothing else would tell: with another learning rate or seed, or with other data, a process takes
part in all collectives, and what is saved is a network that no process ever had.
"""

import hashlib
import json
import socket

import jax

from jax_pix2pix.environment import environment, numerics
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.runs.processes.first_process import count, exchange
from jax_pix2pix.runs.workdir_files import flat
from jax_pix2pix.safety import safe_files

SHOWN = 3  # fields, values of one and processes with one, in a message
# Paths: hosts may have copies of their own, whose content is compared instead. All other fields
# must be equal. Some change no number, but a run has one config, which its workdir tells.
PATHS = ("data.data_dir",)
WEIGHTS = "_weights_file"  # the end of such a field's name
# Of `environment`, what has a better measure in `numerics`, or is the same on all by its nature.
_MEASURED_OTHERWISE = ("revision", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "devices", "processes")


def check_run(config, flags):
    """Compares versions, code, devices, settings and config; all processes call this.

    Args:
        config: as each process was given it.
        flags: {name: value} of what else a process was started with.

    Raises:
        ConfigError: on all processes, with the fields that differ and who has which value.
    """
    if count() > 1:
        _agree(_of_process() | _of_config(config) | flags)


def check_data(dataset):
    """Compares what the processes read as training data; all processes call this.

    What is filled into the config from equal data is equal.

    Args:
        dataset: with `fingerprint()`, as input_pipeline.Dataset.

    Raises:
        ConfigError: as for `check_run`.
        DataError: the data cannot be read.
    """
    if count() > 1:
        _agree({f"the data's {name}": digest for name, digest in dataset.fingerprint().items()})


def _of_process():
    try:
        jax.local_devices()
    except RuntimeError as error:
        raise ConfigError(f"JAX finds no device: {error}") from None
    known = {k: v for k, v in environment().items() if k not in _MEASURED_OTHERWISE}
    return known | numerics()


def _of_config(config):
    described = {}
    for field, value in flat(json.loads(config.to_json())):
        if field.endswith(WEIGHTS) and value:
            described[f"the file of config.{field}"] = _digest(value)
        elif field not in PATHS:
            described[f"config.{field}"] = value
    return described


def _digest(path):
    try:
        with safe_files.open_to_read(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        return error.strerror  # what reads the weights refuses it better


def _agree(description):
    """Raises ConfigError on all processes if they do not give equal dicts, which JSON holds."""
    if found := exchange({"host": socket.gethostname(), "values": description}, differences):
        jax.distributed.shutdown()  # or the first to end would abort the others
        raise ConfigError(found)


def differences(processes):
    """One line on the fields in which processes differ; "" if they do in none.

    Args:
        processes: [{"host": name, "values": {field: value}}], in their order.
    """
    fields = {field: None for process in processes for field in process["values"]}  # in order
    found = []
    for field in fields:
        holders = {}
        for number, process in enumerate(processes):
            values = process["values"]
            text = json.dumps(values[field]) if field in values else "absent"
            holders.setdefault(text, []).append(number)
        if len(holders) > 1:
            found.append(f"{field} is {_values(holders, processes)}")
    if not found:
        return ""
    more = f"; and in {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"the processes of this run differ: {'; '.join(found[:SHOWN])}{more}: start all with the "
        "same command, data, versions and devices"
    )


def _values(holders, processes):
    """holders: {text of a value: numbers of processes}. Common ones come first."""
    ordered = sorted(holders.items(), key=lambda item: (-len(item[1]), item[1]))
    shown = [f"{text[:60]} on {who(numbers, processes)}" for text, numbers in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        shown.append(f"{len(ordered) - SHOWN} more values on others")
    return ", ".join(shown)


def who(numbers, processes):
    """Names processes by number and host."""
    named = ", ".join(f"{number} ({processes[number]['host']})" for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"process{'es' if len(numbers) > 1 else ''} {named}{more}"
