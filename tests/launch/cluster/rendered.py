"""Files of launch.submit, for every platform, type of accelerator and set of flags.

    python -m tests.launch.cluster.rendered FOLDER

writes a file for each. Scripts that these write when they run become files of their own.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import yaml
from absl import flags

from launch import submit
from launch.cluster.accelerators import Cpus, Gpus, TpuSlice

ACCELERATORS = {Cpus: "cpu:2", Gpus: "h100:8", TpuSlice: "v5e-16"}
# Values of text flags; others get "some".
TEXT = {
    "time": "1-00:00:00",
    "mem": "400G",
    "repository": "https://example.com/a.git",
    "zone": "us-west4-a",
    "volume": "runs:/runs",
}


def flag_sets(platform):
    """Yields the required flags, then all flags, once for each further value of a choice."""
    choices = {name: _choices(flags.FLAGS[name]) for name in platform.options}
    every = {name: values[0] for name, values in choices.items()}
    yield {name: every[name] for name in platform.required}
    for name, values in choices.items():
        yield from (every | {name: value} for value in values[1:])
    yield every


def _choices(flag):
    if flag.flag_type() == "bool":
        return ["true"]
    if flag.flag_type() == "int":
        return ["1" if flag.name == "slices" else "3"]  # GPUs have none; test_gke has several
    return getattr(flag.parser, "enum_values", [TEXT.get(flag.name, "some")])


def output(name, accelerator, given):
    """The output of `launch.submit NAME --dry_run`."""
    flags.FLAGS.unparse_flags()
    arguments = [
        "submit",
        "--config=configs/lidc_mask2ct.py",
        '--workdir=gs://bucket/it\'s "a run"',
        f"--accelerator={accelerator}",
        "--submission=again",
        "--dry_run",
        *[f"--{option}={value}" for option, value in given.items()],
    ]
    flags.FLAGS(arguments)
    flags.FLAGS.config.data.data_dir = "gs://bucket/data"
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert submit.main([name]) == 0
    return text.getvalue()


def scripts_within(text):
    """Here-documents of a script by the word that ends them, and those nested in them."""
    for word, inner in re.findall(r"<<'(\w+)'\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE):
        yield word, inner
        yield from scripts_within(inner)


def sections(text):
    """The scripts of a SkyPilot task."""
    task = yaml.safe_load(text)
    return [(name, f"#!/bin/bash\n{task[name]}") for name in ("setup", "run")]


def main():
    folder = Path(sys.argv[1])
    for name, platform in submit.PLATFORMS.items():
        for device, template in platform.template.items():
            for number, given in enumerate(flag_sets(platform)):
                text = output(name, ACCELERATORS[device], given)
                stem = f"{name}-{device.__name__}-{number}"
                (folder / f"{stem}{Path(template).suffix}").write_text(text, encoding="utf-8")
                for part, inner in sections(text) if name == "sky" else scripts_within(text):
                    (folder / f"{stem}-{part}.sh").write_text(inner, encoding="utf-8")


if __name__ == "__main__":
    main()
