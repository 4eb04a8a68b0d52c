"""What `launch.predict` refuses before it imports JAX: what config.json and the paths tell."""

import os
from typing import NamedTuple

from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.safe_io import read_mask
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.errors import ConfigError, chosen
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.mask_options import mask_options
from jax_pix2pix.inference.files import check_place

# Kinds of runs, by what they make of which input: launch/predict_<kind>.py do so.
SAMPLES, PICTURES, SYNTHESIS, CT = "samples", "pictures", "synthesis", "ct"
MASKS = {"uint8": "images", "int16": "volumes"}  # by config.data.source_type; int16 is HU
FORMATS = tuple(ending.removeprefix(".") for ending in volume_file.ENDINGS)


class Sampling(NamedTuple):
    """The flags of a pyramid, see `launch.predict`."""

    count: int = 16
    seed: int = 0
    from_scale: int = 0
    size: str | None = None  # such as "24,160,160"
    reconstruct: bool = False
    format: str = "nii.gz"  # one of FORMATS


class Asked(NamedTuple):
    """What a user asks of a run, see `launch.predict`."""

    source: str | None
    output: str
    options: tuple  # (mc_dropout, threshold, components)
    mask: str | None
    reference: str | None
    sampling: dict  # those of Sampling that are given


def check(config, workdir, asked):
    """Of what kind a run is, which is asked for nothing that does not fit.

    Raises:
        ConfigError: a flag does not fit the run.
        DataError: there is nothing at `source` that the run takes, or a result would take the place
            of what is read.
        OSError: there can be no folder for the results.
        WorkdirError: the config lacks fields.
    """
    with workdir_files.named_if_incomplete(workdir):
        kind = _kind(config, workdir, asked)
    if kind == SAMPLES:
        if asked.source:
            volume_file.read_geometry(asked.source)
        results = [os.path.join(asked.output, "samples.png")]
    else:
        results = _results(kind, config, asked)
    for result in results[:1]:
        check_place(result)
    return kind


def _kind(config, workdir, asked):
    """As `check`, of what needs the config."""
    source, output, options, mask, reference, sampling = asked
    if "pyramid" in config:
        if options != (None, None, 0) or mask or reference:
            raise ConfigError(
                "a pyramid makes CT of noise: leave out --mask, --reference, --mc_dropout, "
                "--threshold and --largest_components"
            )
        sampled_size(config, source, Sampling(**sampling))
        return SAMPLES
    for flag in sampling:
        raise ConfigError(f"--{flag} is of pyramids, and {workdir} is of {config.system}")
    if source is None:
        raise ConfigError("--input is missing: give a file or a folder of what the run takes")
    of_mr = config.data.source_type == "uint16"
    pictures = of_mr and inputs.are_pictures(source, output)
    for field in ("context", "depth"):
        if config.data[field] and (pictures or config.data.source_type == "uint8"):
            raise ConfigError(
                f"config.data.{field} is {config.data[field]}, but images have no neighbours: "
                "launch.evaluate judges this run on its prepared data"
            )
    if (mask or reference) and not of_mr:
        raise ConfigError("--mask and --reference are of systems that make synthetic CT of MR")
    if (mask or reference) and pictures:
        raise ConfigError(f"--mask and --reference are of volumes, and {source} is of pictures")
    if not workdir_files.makes_masks(config):
        if options != (None, None, 0):
            raise ConfigError(
                "--mc_dropout, --threshold and --largest_components are of systems that make masks"
            )
        if of_mr and os.path.isdir(source) and (mask or reference):
            raise ConfigError(
                f"--mask and --reference are of one volume, and {source} is a folder: give a file"
            )
        return PICTURES if pictures else SYNTHESIS if of_mr else CT
    if config.data.dataset == "luna16":
        raise ConfigError(
            f"a run of {config.system} sees whole volumes resized to one size, for a pyramid's "
            "loss: launch.evaluate judges it, launch.export_segmenter writes it"
        )
    mask_options(config, *options)
    return chosen(MASKS, "data.source_type", config.data.source_type)


def _results(kind, config, asked):
    """Where the results lie, some of them without an ending."""
    source, output = asked.source, asked.output
    if kind == PICTURES:
        found = inputs.mr_pictures(source, output)
    elif kind == SYNTHESIS:
        others = {asked.mask, asked.reference}
        found = inputs.mr_volumes(source, output, config.data.modality, others)
    elif kind == CT:
        found = inputs.label_masks(source, output)
        if not os.path.isdir(source):
            read_mask(source)  # of a single file, what keeps it from being read is told at once
    elif kind == MASKS["uint8"]:
        found = inputs.xrays(source, output)
    else:
        found = inputs.ct_volumes(source, output)
    return [result for _, result in found]


def sampled_size(config, source, sampling):
    """The size of samples as a tuple, or None, if `sampling` fits the finest scale's config.

    Raises:
        ConfigError: a flag does not fit the run, or not another flag.
    """
    count, _, from_scale, size, reconstruct, form = sampling
    if count < 1:
        raise ConfigError(f"--count={count}: use 1 or more")
    if form not in FORMATS:
        raise ConfigError(f"--format={form}: use one of {', '.join(FORMATS)}")
    if source and not from_scale:
        raise ConfigError("--input, of a pyramid, is what --from_scale begins with: give that too")
    if reconstruct and (from_scale or size):
        raise ConfigError(
            "--reconstruct is of the fixed noise of training: leave --from_scale and --size out"
        )
    if not 0 <= from_scale <= config.pyramid.scale:
        raise ConfigError(f"--from_scale={from_scale}: use 0 to {config.pyramid.scale}")
    if size is None:
        return None
    names = ("H", "W") if config.pyramid.dimensions == 2 else ("D", "H", "W")
    parts = size.split(",")
    if len(parts) != len(names) or not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--size={size}: use {','.join(names)}, each 1 or more")
    return tuple(map(int, parts))
