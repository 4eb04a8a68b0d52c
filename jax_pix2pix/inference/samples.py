"""Makes CT volumes with a pyramid: from noise, a volume's coarser scales, or fixed noise."""

from typing import NamedTuple

import jax
import numpy as np

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.geometry import given as given_by_user
from jax_pix2pix.imaging.volume import Geometry
from jax_pix2pix.inference import sources
from jax_pix2pix.inference.checks import check_sampling
from jax_pix2pix.inference.prediction import HU, Prediction
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.intensity import to_network


class Training(NamedTuple):
    """A volume that a sample begins with."""

    image: np.ndarray  # float32 [d, h, w] in [-1, 1]
    spacing_mm: tuple  # of its voxels
    z_rec: np.ndarray | None = None  # its fixed noise


def samples(run, sampling, source=None, affine=None, dataset=None, progress=None, **options):
    """Yields a Prediction for each sample or reconstruction in turn.

    Args:
        run: Run of a pyramid.
        sampling: checks.Sampling.
        source: a CT in HU, as `sources.volume_of` takes it, that from_scale begins with; or None.
        dataset: input_pipeline.Dataset of the run's data, for its training volumes in turn;
            reconstruct needs it, and from_scale without a source.
        progress: (done, total) -> None.
        options: spacing_mm, axes and geometry of a source that leaves them open.

    Raises:
        ConfigError: an option does not fit the run or another one.
        DataError: the prepared data of the run is missing, or source cannot be read.
    """
    config, system = run.config, run.system
    size = check_sampling(config, source is not None, sampling)
    count, seed, from_scale, _, reconstruct = sampling
    given = []
    if source is not None:
        user = given_by_user(**options)
        given = [_read(source, affine, user, config, size or system.generator.sizes[-1])]
    elif from_scale or reconstruct:
        if dataset is None:
            raise ConfigError(
                "from_scale without a volume, and reconstruct, begin with the training volumes: "
                "give dataset=input_pipeline.Dataset(run.config.data)"
            )
        given = _training_volumes(config, system, dataset, count)
    if reconstruct:
        count = min(count, len(given))
    for number in range(count):
        start = given[number % len(given)] if given else None
        volume = sample(
            config,
            system,
            run.generator,
            jax.random.fold_in(jax.random.key(seed), number),
            size,
            from_scale,
            start.image if start and from_scale else None,
            start.z_rec if start and reconstruct else None,
        )
        if start:
            spacing_mm = resized_spacing_mm(start.spacing_mm, start.image.shape, volume.shape)
        else:
            spacing_mm = trained_spacing_mm(config, system)
        hu = np.rint(system.output(volume)).astype(np.int16)
        yield Prediction(hu, HU, _geometry(hu.shape, spacing_mm))
        if progress:
            progress(number + 1, count)


def _read(given, affine, user, config, size):
    """Reads a volume and resizes it, as the training volumes were, to the size of the samples.

    Args:
        size: (d, h, w) of the samples, in 2D (h, w).
    """
    volume, name = sources.volume_of(given, "ct", affine, user)
    shape = (config.data.depth, *size)[-3:]
    if config.data.crops and volume.values.shape != shape:
        raise ConfigError(
            f"{name} has {_by(volume.values.shape)} voxels, but this run learnt from crops "
            f"in a volume's own voxels, and the samples are of {_by(shape)}: crop the file to "
            "that, or set size"
        )
    spacing_mm = volume.geometry.needed_spacing_mm(name, "a sample's own spacing")
    mm = config.data.isotropic_mm
    volume_resizing.check_whole(name, volume.values.shape, spacing_mm, mm, shape)
    values = np.clip(volume.values, *config.data.clip_hu)
    if mm:
        cubes = volume_resizing.isotropic(values.shape, spacing_mm, mm)
        values, spacing_mm = volume_resizing.linear(values, cubes), (mm, mm, mm)
    resized = volume_resizing.linear(values, volume_resizing.aligned_corners(values.shape, shape))
    return Training(
        np.asarray(to_network(resized, config.data.source_range)),
        resized_spacing_mm(spacing_mm, values.shape, shape),
    )


def _by(shape):
    return " x ".join(map(str, shape))


def _training_volumes(config, system, dataset, count):
    """Makes a Training of each of the first training examples, at most `count`."""
    data, volumes = config.data, []
    examples = dataset.examples("train")
    few = np.arange(min(count, dataset.num_evaluation_examples("train")))
    for batch in dataset.eval_batches("train", indices=few):
        images = np.asarray(to_network(batch["source"], data.source_range))[..., 0]
        noise = np.asarray(system.normalise(batch)[0])
        for image, z_rec, index in zip(images, noise, batch["index"][:, 0], strict=True):
            if index >= 0:
                spacing_mm = dataset.spacing_mm(examples[index : index + 1])
                spacing_mm = spacing_mm if all(spacing_mm) else (1.0, 1.0, 1.0)
                volumes.append(Training(image, spacing_mm, z_rec))
    return volumes


def trained_spacing_mm(config, system):
    """Computes the mm between slices, rows and columns of the last scale, for any sample size.

    They are 1 if the config does not state them.
    """
    data = config.data
    if not all(data.spacing_mm):
        return (1.0, 1.0, 1.0)
    size = system.generator.sizes[-1]
    size = (data.depth, *size) if config.pyramid.dimensions == 2 else size
    return resized_spacing_mm(data.spacing_mm, (data.depth, data.image_size, data.image_size), size)


def resized_spacing_mm(spacing_mm, shape, new_shape):
    """Computes the spacing after resizing, where the first and last voxels keep their places."""
    return tuple(
        mm * ((n - 1) / (m - 1) if min(n, m) > 1 else n / m)
        for mm, n, m in zip(spacing_mm, shape, new_shape, strict=True)
    )


def _geometry(shape, spacing_mm):
    """Makes a Geometry whose first voxel, at feet, front and right, is at the origin."""
    affine = np.diag([*np.multiply(spacing_mm, (1, -1, -1))[::-1], 1.0])
    return Geometry(affine, shape[::-1])
