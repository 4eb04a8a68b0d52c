"""Predicts from files to files, for `launch.predict` and for notebooks."""

import functools
import os

from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.geometry import OPTIONS, given
from jax_pix2pix.inference import sample_pictures, sources
from jax_pix2pix.inference.checks import CT_OPTIONS, Asked, check, sampling_of
from jax_pix2pix.inference.samples import samples
from jax_pix2pix.inference.sources import PATHS
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.accounts import FAILED, LEFT, TABLE, USED
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.tasks import kinds


def predict_files(run, source, output, progress=None, **options):
    """Predicts from a file or from all files below a folder; results keep their sources' layout.

    Of a folder it ends with a line that counts the files that were used, passed over and failed,
    and writes files.csv, a table of them, into `output`.

    Args:
        run: Run, not of a pyramid.
        source: a file, or a folder of them at any depth; `launch.predict` says what is passed over.
        output: a folder, or for one input a file.
        progress: (number of the file, files, done, total) -> None, within each file.
        **options: mask, mc_dropout, threshold, largest_components, fill_holes, spacing_mm, axes,
            geometry and series of `Run.predict`; reference, for one synthetic CT: the path of its
            real CT, on whose voxels the source must lie, or with config.data.resample the result
            is made; and on_error, "stop" at the first file that cannot be used, or "skip" it.

    Returns:
        Iterator of (path of the input, paths of the results, Prediction), each once it is written.

    Raises:
        ConfigError, DataError, OSError: as `checks.check`, before the first file; and for each.
            With on_error="skip" a DataError at the end says how many files failed.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if run.kind == kinds.CT_SAMPLES:
        raise ConfigError("a pyramid has no input to predict from: use sample_files")
    for name in CT_OPTIONS:
        if isinstance(options.get(name), PATHS):
            options[name] = expanded(options[name])
    source, output = expanded(source), expanded(output)
    pairs, account = check(run.config, run.workdir, Asked(source, output, options))
    return predict_pairs(run, pairs, account, output, progress, **options)


def predict_pairs(run, pairs, account, output, progress=None, on_error="stop", **options):
    """`predict_files` of what `checks.check` found."""
    reference = options.pop("reference", None)
    if run.kind == kinds.SYNTHETIC_CT and reference:
        if run.config.data.resample:
            options["grid"] = reference
        else:
            ((path, _),) = pairs
            user = given(**{name: options.get(name) for name in OPTIONS})
            grid, own = (sources.geometry_of(one, user) for one in (reference, path))
            own.check_same_grid(path, grid, reference, "resample the latter")
    if account is None:
        return _written(run, pairs, output, options, progress)
    return _accounted(run, pairs, account, output, options, progress, on_error)


def _accounted(run, pairs, account, output, options, progress, on_error):
    """Yields what `_written` does, and keeps the account of the folder of the inputs."""
    names = {path: os.path.relpath(path, account.folder) for path, _ in pairs}
    for name in names.values():
        account.add(name, LEFT)

    def failed(path, error):
        account.add(names[path], FAILED, error)
        if on_error == "stop":
            raise error
        messages.warning(f"{error}")

    table = os.path.join(output, TABLE)
    if pairs[0][1] == output:  # of one series
        table = f"{volume_file.without_ending(output)}_{TABLE}"
    try:
        for path, written, prediction in _written(run, pairs, output, options, progress, failed):
            account.add(names[path], USED, "; ".join(prediction.notes))
            yield path, written, prediction
    finally:
        account.save(table, os.path.dirname(table) or ".")
        messages.info(account.line())
    if bad := account.names(FAILED):
        of = "all" if len(bad) == len(pairs) else f"{len(bad)} of"
        raise DataError(
            f"{of} {len(pairs)} inputs failed, see {table}; the first: {account.why(bad[0])}"
        )


def _written(run, pairs, output, options, progress, failed=None):
    each = enumerate(_each(run, pairs, options, progress, failed), 1)
    for number, (path, result, prediction) in each:
        below = None if result == output else output
        yield path, prediction.save(result, below), prediction
        if progress:
            progress(number, len(pairs), 1, 1)


def _each(run, pairs, options, progress, failed):
    """Yields (path, path of the result, Prediction).

    failed: (path, DataError) -> None for an input that cannot be used; without it that is raised.
    """
    if run.kind == kinds.CT_SLICES:
        places = dict(pairs)
        for path, prediction in run.predictor.each(list(places), failed):
            yield path, places[path], prediction
        return
    for number, (path, result) in enumerate(pairs, 1):
        told = functools.partial(progress, number, len(pairs)) if progress else None
        try:
            prediction = run.predict(path, progress=told, **options)
        except DataError as error:
            if failed is None:
                raise
            failed(path, error)
        else:
            yield path, result, prediction


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
    source, output = source and expanded(source), expanded(output)
    check(run.config, run.workdir, Asked(source, output, options))
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
