"""Predicts from files to files, for `launch.predict` and for notebooks."""

import functools
import os

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging.geometry import OPTIONS, given
from jax_pix2pix.inference import sample_pictures, sources
from jax_pix2pix.inference.checks import Asked, check, sampling_of
from jax_pix2pix.inference.samples import samples
from jax_pix2pix.safety import safe_files
from jax_pix2pix.tasks import kinds

SUFFIX = {  # endings of predicted masks
    kinds.XRAY_MASKS: ".png",
    kinds.CT_MASKS: ".nii.gz",
    kinds.RESIZED_CT_MASKS: ".nii.gz",
}


def predict_files(run, source, output, progress=None, **options):
    """Predicts from a file or from all files below a folder; results keep their sources' layout.

    Args:
        run: Run, not of a pyramid.
        source: a file, or a folder of them at any depth; `launch.predict` says what is skipped.
        output: a folder, or for one synthetic CT a file.
        progress: (number of the file, files, done, total) -> None, within each file.
        **options: mask, mc_dropout, threshold, largest_components, spacing_mm, axes, geometry and
            series of `Run.predict`; and reference, for one synthetic CT: the path of its real CT.
            The source must lie on its voxels; with config.data.resample the result is made on them.

    Returns:
        Iterator of (path of the input, paths of the results, Prediction), each once it is written.

    Raises:
        ConfigError, DataError, OSError: as `checks.check`, before the first file; and for each.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if run.kind == kinds.CT_SAMPLES:
        raise ConfigError("a pyramid has no input to predict from: use sample_files")
    pairs = check(run.config, run.workdir, Asked(str(source), str(output), options))
    return predict_pairs(run, pairs, str(output), progress, **options)


def predict_pairs(run, pairs, output, progress=None, **options):
    """`predict_files` of what `checks.check` found: [(path of an input, path of its result)]."""
    reference = options.pop("reference", None)
    if run.kind == kinds.SYNTHETIC_CT and reference:
        if run.config.data.resample:
            options["grid"] = reference
        else:
            ((path, _),) = pairs
            user = given(**{name: options.get(name) for name in OPTIONS})
            grid, own = (sources.geometry_of(one, user) for one in (reference, path))
            own.check_same_grid(path, grid, reference, "resample the latter")
    return _written(run, pairs, output, options, progress)


def _written(run, pairs, output, options, progress):
    for number, (path, result, prediction) in enumerate(_each(run, pairs, options, progress), 1):
        below = None if result == output else output
        yield path, prediction.save(result + SUFFIX.get(run.kind, ""), below), prediction
        if progress:
            progress(number, len(pairs), 1, 1)


def _each(run, pairs, options, progress):
    """Yields (path, path of the result, Prediction)."""
    if run.kind == kinds.CT_SLICES:
        predictions = run.predictor.each([path for path, _ in pairs])
        for (path, result), prediction in zip(pairs, predictions, strict=True):
            yield path, result, prediction
        return
    for number, (path, result) in enumerate(pairs, 1):
        told = functools.partial(progress, number, len(pairs)) if progress else None
        yield path, result, run.predict(path, progress=told, **options)


def sample_files(run, output, source=None, dataset=None, progress=None, **options):
    """Writes samples of a pyramid, or reconstructions, with their pictures.

    Args:
        run: Run of a pyramid.
        output: folder for sample_0000.nii.gz and so on; a picture of each, sample_0000.png, with
            three planes through the centre, or all slices for a 2D run; and samples.png of all.
        source, dataset, options: as `Run.sample`; spacing_mm, axes and geometry of the source; and
            format, the ending of the volumes' names.
        progress: (done, total) -> None.

    Yields:
        (path of a volume, Prediction), each once it is written; at last (samples.png, None).

    Raises:
        ConfigError, DataError, OSError: as `checks.check` and `samples`.
    """
    options = {name: value for name, value in options.items() if value is not None}
    check(run.config, run.workdir, Asked(source, str(output), options))
    sampling, form = sampling_of(options)
    opened = {name: options[name] for name in OPTIONS if name in options}
    kind = "reconstruction" if sampling.reconstruct else "sample"
    tiles, names = [], []
    drawn = samples(run, sampling, source, dataset=dataset, progress=progress, **opened)
    for number, prediction in enumerate(drawn):
        names.append(f"{kind}_{number:04d}")
        (path,) = prediction.save(os.path.join(output, f"{names[-1]}.{form}"), output)
        hu, spacing_mm = prediction.values, prediction.spacing_mm
        tiles.append(sample_pictures.three_planes(hu, spacing_mm))
        if run.config.pyramid.dimensions == 2:
            slices = sample_pictures.axial_slices(hu, spacing_mm)
            picture = sample_pictures.picture_of_slices(slices, names[-1])
        else:
            picture = sample_pictures.picture_of_planes(tiles[-1:], names[-1:])
        _save(picture, os.path.join(output, f"{names[-1]}.png"), output)
        yield path, prediction
    everything = os.path.join(output, f"{kind}s.png")
    _save(sample_pictures.picture_of_planes(tiles, names), everything, output)
    yield everything, None


def _save(picture, path, output):
    with safe_files.writing(path, output) as file:
        picture.save(file, "png")
