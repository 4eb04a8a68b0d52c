"""Checks config.json, options and paths before JAX is imported."""

import os
from typing import NamedTuple

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import geometry, volume_file
from jax_pix2pix.imaging.safe_io import read_mask
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.files import check_place
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.workdir_files import SOURCES_NOTE
from jax_pix2pix.tasks import kinds

FORMATS = tuple(ending.removeprefix(".") for ending in volume_file.ENDINGS)
CHECKED_OPTIONS = ("mc_dropout", "threshold", "largest_components")  # of `mask_options`
MASK_OPTIONS = (*CHECKED_OPTIONS, "fill_holes")
CT_OPTIONS = ("mask", "reference")


class Sampling(NamedTuple):
    """Options of a pyramid's samples; see `Run.sample`."""

    count: int = 16
    seed: int = 0
    from_scale: int = 0
    size: tuple | None = None  # (d, h, w), in 2D (h, w)
    reconstruct: bool = False


OPTIONS = (
    *MASK_OPTIONS,
    *CT_OPTIONS,
    *Sampling._fields,
    "format",
    "on_error",
    *geometry.OPTIONS,
)
ON_ERROR = ("stop", "skip")


class Asked(NamedTuple):
    """The arguments of `predict_files` or `sample_files`.

    source, output: files or folders; source is None for samples of noise.
    options: those of OPTIONS that are given.
    """

    source: str | None
    output: str
    options: dict


def check(config, workdir, asked):
    """Checks a request to a run for the errors that can be found without JAX.

    Returns:
        ([(path of an input, path of its result)], Account of the folder of the inputs, or None
        where one input was named); ([], None) for samples.

    Raises:
        ConfigError: an option does not fit the run.
        DataError: the source holds nothing that the run takes, or a result would replace an input.
        OSError: the folder of the results cannot be made.
        WorkdirError: the config lacks fields.
    """
    with workdir_files.named_if_incomplete(workdir):
        kind = kinds.kind_of(config)
        _check_options(config, kind, workdir, asked)
        if kind == kinds.CT_SAMPLES:
            sampling, form = sampling_of(asked.options)
            check_sampling(config, bool(asked.source), sampling)
            if form not in FORMATS:
                raise ConfigError(f"format={form}: use one of {', '.join(FORMATS)}")
            pairs, account = [], None
        else:
            pairs, account = _pairs(config, kind, workdir, asked)
    if asked.source and not pairs:
        volume_file.read_geometry(asked.source, _given(asked.options))
    check_place(pairs[0][1] if pairs else os.path.join(asked.output, "samples.png"))
    return pairs, account


def sampling_of(options):
    """Splits options into (Sampling, format)."""
    given = {name: options[name] for name in Sampling._fields if name in options}
    return Sampling(**given), options.get("format", "nii.gz")


def _check_options(config, kind, workdir, asked):
    """Raises ConfigError for options that do not fit a run of this kind."""
    fitting = {
        kinds.CT_SLICES: ("on_error",),
        kinds.XRAY_MASKS: (*MASK_OPTIONS, "on_error"),
        kinds.CT_MASKS: (*MASK_OPTIONS, "on_error", *geometry.OPTIONS),
        kinds.RESIZED_CT_MASKS: (*MASK_OPTIONS, "on_error", *geometry.OPTIONS),
        kinds.SYNTHETIC_CT: (*CT_OPTIONS, "on_error", *geometry.OPTIONS),
        kinds.CT_SAMPLES: (*Sampling._fields, "format", *geometry.OF_A_FILE),
    }
    if (on_error := asked.options.get("on_error", "stop")) not in ON_ERROR:
        raise ConfigError(f"on_error={on_error}: use {' or '.join(ON_ERROR)}")
    for name in asked.options:
        if name not in fitting.get(kind, ()):
            whose = [kinds.KINDS[other] for other, names in fitting.items() if name in names]
            if not whose:
                raise ConfigError(f"{name} is no option: use some of {', '.join(OPTIONS)}")
            raise ConfigError(
                f"{name} is of runs that make {' or '.join(whose)}, and {workdir} is of "
                f"{config.system}, which makes {kinds.KINDS[kind]}: leave it out"
            )
    if asked.source is None and kind != kinds.CT_SAMPLES:
        raise ConfigError("the input is missing: give a file or a folder of what the run takes")


def _pairs(config, kind, workdir, asked):
    source, output, options = asked
    pictures = kind == kinds.SYNTHETIC_CT and inputs.is_picture_input(source, output)
    if kind == kinds.SYNTHETIC_CT:
        check_learnt_from(workdir_files.notes_of_data(workdir, SOURCES_NOTE), pictures)
    check_pictures(config, pictures or kind in (kinds.XRAY_MASKS, kinds.CT_SLICES))
    if kind in kinds.MASKS:
        mask_options(config, *(options.get(name) for name in CHECKED_OPTIONS))
    if kind == kinds.XRAY_MASKS:
        return inputs.xray_pictures(source, output)
    _given(options)
    if kind in (kinds.CT_MASKS, kinds.RESIZED_CT_MASKS):
        pairs, account = inputs.ct_volumes(source, output)
        _check_series(options, [path for path, _ in pairs])
        return pairs, account
    if kind == kinds.CT_SLICES:
        found = inputs.label_masks(source, output)
        if not os.path.isdir(source):
            read_mask(source)  # an unreadable single file raises at once
        return found
    others = [options[name] for name in CT_OPTIONS if options.get(name)]
    if others and pictures:
        raise ConfigError(f"mask and reference are of volumes, and {source} is of pictures")
    if others and os.path.isdir(source):
        raise ConfigError(
            f"mask and reference are of one volume, and {source} is a folder: give a file"
        )
    _check_series(options, [options.get("reference")])
    if pictures:
        return inputs.mr_pictures(source, output)
    return inputs.mr_volumes(source, output, config.data.modality, others)


def _given(options):
    """Checks what the user says of files that leave their geometry open. -> Given."""
    return geometry.given(**{name: options.get(name) for name in geometry.OPTIONS})


def _check_series(options, paths):
    """Raises ConfigError if a series is named and no path is the one folder that holds it."""
    if options.get("series") and not (len(paths) == 1 and paths[0] and os.path.isdir(paths[0])):
        raise ConfigError(
            f"series={options['series']}: there is no folder of DICOM slices to take it from, "
            "leave it out"
        )


def check_learnt_from(notes, pictures):
    """Raises ConfigError if a run is given pictures and learnt from volumes, or the reverse.

    Args:
        notes: those of SOURCES_NOTE in the record of its data; runs of old have none.
    """
    for note in notes:
        learnt = note.removeprefix(SOURCES_NOTE)
        given = "pictures" if pictures else "volumes"
        if learnt != given:
            raise ConfigError(
                f"the input is of {given}, and this run learnt from {learnt}, which are scaled in "
                f"another way: give {learnt}"
            )


def check_pictures(config, pictures):
    """Raises ConfigError if the input is single pictures and the run sees several slices."""
    for field in ("context", "depth"):
        if config.data[field] and pictures:
            raise ConfigError(
                f"config.data.{field} is {config.data[field]}, but images have no neighbours: "
                "launch.evaluate judges this run on its prepared data"
            )


def mask_options(config, mc_dropout, threshold, largest_components):
    """Checks a mask run's options. -> (mc_dropout, threshold), by default those of the config.

    Raises:
        ConfigError: names the option that does not fit.
    """
    classes = config.generator.get("classes", 1)
    if mc_dropout is None:
        mc_dropout = config.evaluation.mc_dropout
    options = {"mc_dropout": mc_dropout, "largest_components": largest_components or 0}
    for name, value in options.items():
        if value < 0:
            raise ConfigError(f"{name}={value}: use 0 or more")
    if threshold is None:
        threshold = config.evaluation.threshold
    elif classes > 1:
        raise ConfigError(
            f"threshold={threshold}: this run has {classes} classes, of which the most probable "
            "one is taken: leave it out"
        )
    elif not 0 < threshold < 1:
        raise ConfigError(f"threshold={threshold}: use 0 to 1, exclusive")
    return mc_dropout, threshold


def check_sampling(config, has_source, sampling):
    """Checks `sampling` against the finest scale's config. -> its size as a tuple, or None.

    Raises:
        ConfigError: an option does not fit the run or another option.
    """
    count, _, from_scale, size, reconstruct = sampling
    if count < 1:
        raise ConfigError(f"count={count}: use 1 or more")
    if has_source and not from_scale:
        raise ConfigError("a pyramid's input is what from_scale begins with: give that too")
    if reconstruct and (from_scale or size):
        raise ConfigError(
            "reconstruct is of the fixed noise of training: leave from_scale and size out"
        )
    if not 0 <= from_scale <= config.pyramid.scale:
        raise ConfigError(f"from_scale={from_scale}: use 0 to {config.pyramid.scale}")
    if size is None:
        return None
    names = ("H", "W") if config.pyramid.dimensions == 2 else ("D", "H", "W")
    size = tuple(size) if isinstance(size, list | tuple) else (size,)
    whole = [getattr(n, "__index__", None) for n in size]
    if len(size) != len(names) or not all(whole) or min(size) < 1:
        shown = ",".join(map(str, size))
        raise ConfigError(f"size={shown}: use {','.join(names)}, each 1 or more")
    return tuple(map(int, size))
