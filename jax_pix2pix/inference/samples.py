"""What `launch.predict` does with a pyramid: volumes made of noise."""

import os
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.volume import Geometry, Volume
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.intensity import to_network, to_stored
from jax_pix2pix.inference.sampling import sample
from jax_pix2pix.inference import sample_pictures
from jax_pix2pix.inference.checks import sampled_size
from jax_pix2pix.inference.files import replacing


class Training(NamedTuple):
    """A volume to begin with."""

    image: np.ndarray  # float32 [d, h, w] in [-1, 1]
    spacing_mm: tuple  # of its voxels
    z_rec: np.ndarray | None = None  # its fixed noise


def predict(config, system, generator, output, source, sampling):
    """Writes samples, or reconstructions, one after the other.

    Args:
        config, system, generator: of the finest scale of a run.
        output: folder. See `launch.predict` for this and the rest, which are its flags.
        source: path of a volume, or None.
        sampling: predict_checks.Sampling.

    Raises:
        ConfigError: a flag does not fit the run, or not another flag.
        DataError: the prepared data of the run is needed and not there, or source cannot be read.
    """
    size = sampled_size(config, source, sampling)
    count, seed, from_scale, _, reconstruct, form = sampling
    if source:
        given = [_read(source, config, size or system.generator.sizes[-1])]
    else:
        given = _training_volumes(config, system, count) if from_scale or reconstruct else []
    name = "sample"
    if reconstruct:
        name, count = "reconstruction", min(count, len(given))
    tiles, names = [], []
    for number in tqdm.trange(count, desc=name, unit="volume"):
        start = given[number % len(given)] if given else None
        volume = sample(
            config,
            system,
            generator,
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
        hu = np.rint(to_stored(volume, config.data.source_range)).astype(np.int16)
        names.append(f"{name}_{number:04d}")
        path = os.path.join(output, f"{names[-1]}.{form}")
        with replacing(path) as temporary:
            volume_file.write_hu(temporary, hu, Volume(hu, _geometry(hu.shape, spacing_mm)))
        tiles.append(sample_pictures.three_planes(hu, spacing_mm))
        if config.pyramid.dimensions == 2:
            slices = sample_pictures.axial_slices(hu, spacing_mm)
            picture = sample_pictures.picture_of_slices(slices, names[-1])
        else:
            picture = sample_pictures.picture_of_planes(tiles[-1:], names[-1:])
        _save(picture, os.path.join(output, f"{names[-1]}.png"))
        tqdm.tqdm.write(path)
    everything = os.path.join(output, f"{name}s.png")
    _save(sample_pictures.picture_of_planes(tiles, names), everything)
    print(everything)


def _read(path, config, size):
    """A volume of a file, shrunk as the training volumes were, to the size of the samples.

    Args:
        size: (d, h, w) of the samples, in 2D (h, w).
    """
    volume = volume_file.read_hu(path)
    shape = (config.data.depth, *size)[-3:]
    if config.data.crops and volume.values.shape != shape:
        raise ConfigError(
            f"--input={path} has {_by(volume.values.shape)} voxels, but this run learnt from crops "
            f"in a volume's own voxels, and the samples are of {_by(shape)}: crop the file to "
            "that, or set --size"
        )
    spacing_mm = volume.spacing_mm
    values = np.clip(volume.values, *config.data.clip_hu)
    if mm := config.data.isotropic_mm:
        cubes = volume_resizing.isotropic(values.shape, spacing_mm, mm)
        values, spacing_mm = volume_resizing.linear(values, cubes), (mm, mm, mm)
    resized = volume_resizing.linear(values, volume_resizing.aligned_corners(values.shape, shape))
    return Training(
        np.asarray(to_network(resized, config.data.source_range)),
        resized_spacing_mm(spacing_mm, values.shape, shape),
    )


def _by(shape):
    return " x ".join(map(str, shape))


def _training_volumes(config, system, count):
    """Training for each of the first training examples, at most so many."""
    # Both import TensorFlow, which is not needed to sample from noise.
    from input_pipeline import pipeline, prepared

    data, volumes = config.data, []
    examples = prepared.examples(data, "train")
    few = np.arange(min(count, pipeline.num_evaluation_examples(data, "train")))
    for batch in pipeline.eval_batches(data, "train", indices=few):
        images = np.asarray(to_network(batch["source"], data.source_range))[..., 0]
        noise = np.asarray(system.normalise(batch)[0])
        for image, z_rec, index in zip(images, noise, batch["index"][:, 0], strict=True):
            if index >= 0:
                spacing_mm = prepared.spacing_mm(data, examples[index : index + 1])
                volumes.append(Training(image, spacing_mm, z_rec))
    return volumes


def trained_spacing_mm(config, system):
    """Between slices, rows and columns of the last scale, whatever the size of a sample.

    1 where the run does not say.
    """
    data = config.data
    if not all(data.spacing_mm):
        return (1.0, 1.0, 1.0)
    size = system.generator.sizes[-1]
    size = (data.depth, *size) if config.pyramid.dimensions == 2 else size
    return resized_spacing_mm(data.spacing_mm, (data.depth, data.image_size, data.image_size), size)


def resized_spacing_mm(spacing_mm, shape, new_shape):
    """Of voxels resized with aligned corners: the first and the last keep their places."""
    return tuple(
        mm * ((n - 1) / (m - 1) if min(n, m) > 1 else n / m)
        for mm, n, m in zip(spacing_mm, shape, new_shape, strict=True)
    )


def _geometry(shape, spacing_mm):
    """Geometry whose first voxel, of the feet, the front and the right, is at the origin."""
    affine = np.diag([*np.multiply(spacing_mm, (1, -1, -1))[::-1], 1.0])
    return Geometry(affine, shape[::-1])


def _save(picture, path):
    with replacing(path) as temporary:
        picture.save(temporary)
