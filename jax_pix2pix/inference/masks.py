"""Predicts masks of X-rays and of CT volumes, on the pixels or voxels of their sources."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import volume_resizing
from jax_pix2pix.imaging.geometry import given as given_by_user
from jax_pix2pix.imaging.hounsfield import check_grey
from jax_pix2pix.imaging.memory import check_memory
from jax_pix2pix.imaging.planes import native, stored_image
from jax_pix2pix.imaging.resizing import bilinear, evaluation_image
from jax_pix2pix.imaging.xrays import read_xray
from jax_pix2pix.imaging.xrays import stored_image as stored_xray
from jax_pix2pix.inference import sources
from jax_pix2pix.inference.checks import mask_options
from jax_pix2pix.inference.prediction import LABEL, Prediction
from jax_pix2pix.inference.sliding_window import by_runs, by_slices
from jax_pix2pix.metrics.components import border_note, cleaned


def probability_function(system, mc_dropout=0):
    """Compiles a generator's probabilities.

    Args:
        mc_dropout: passes with dropout that are averaged (Gal and Ghahramani, ICML 2016); 0 is
            one pass without dropout.

    Returns:
        (generator, source) -> (mean, standard deviation) over passes of the probabilities,
        [n, *spatial, classes]; the deviation is 0 without dropout.

    Raises:
        ConfigError: the generator has no dropout.
    """
    if mc_dropout and not getattr(system.generator, "dropout", 0):
        raise ConfigError(f"mc_dropout={mc_dropout}, but the generator has no dropout: use 0")

    def probabilities(generator, source, key=None):
        return system.task.probabilities(generate(system, generator, source, key))

    @jax.jit
    def moments(generator, source):
        if not mc_dropout:
            mean = probabilities(generator, source)
            return mean, jnp.zeros_like(mean)
        keys = jax.random.split(jax.random.key(0), mc_dropout)
        passes = jax.lax.map(functools.partial(probabilities, generator, source), keys)
        return passes.mean(0), passes.std(0)

    return moments


class _Masks:
    """Computes probabilities and labels for both kinds of sources."""

    def __init__(self, run):
        self._run, self.data = run, run.config.data
        self.classes = run.config.generator.get("classes", 1)
        self._moments = {}  # {passes: compiled function}

    def options(self, mc_dropout, threshold, largest_components):
        """Checks the options. -> (mc_dropout, threshold), by default config.evaluation's."""
        return mask_options(self._run.config, mc_dropout, threshold, largest_components)

    def probabilities(self, passes):
        """Returns stored integers [n, *spatial, c] -> NumPy (mean, deviation) over passes.

        The mean is [n, *spatial, classes], see ``Segmentation.probabilities``; the deviation of the
        foreground's probability is [n, *spatial]. With several classes it is the background's,
        which equals that of all the others together.
        """
        if passes not in self._moments:
            system = self._run.system
            moments = probability_function(system, passes)

            @jax.jit
            def outputs(generator, stored):
                mean, deviation = moments(generator, system.source(stored))
                return mean, deviation[..., 0]

            self._moments[passes] = outputs
        return lambda stored: jax.device_get(self._moments[passes](self._run.generator, stored))

    def labels(self, probabilities, threshold):
        """Thresholds one class, or takes the most probable one. [..., classes] -> uint8 [...]."""
        if self.classes == 1:
            return (probabilities[..., 0] > threshold).astype(np.uint8)
        return probabilities.argmax(-1).astype(np.uint8)

    def prediction(self, labels, deviation, options, clean_up, notes, **fields):
        """A Prediction. A map of one pass, which is 0, would look like certainty: there is none.

        clean_up: (largest_components, fill_holes).
        notes: on how the source was read.
        """
        labels = cleaned(labels, *clean_up)
        note = border_note(labels > 0)
        highest = max(self.classes - 1, 1)
        passes, _ = options
        fields |= {"uncertainty": deviation if passes > 1 else None, "highest_label": highest}
        return Prediction(labels, LABEL, notes=(*notes, note) if note else notes, **fields)


class XrayMasks(_Masks):
    """Predicts the mask of an X-ray: probabilities are resized to its size and then cut."""

    def __call__(
        self,
        given,
        progress=None,
        mc_dropout=None,
        threshold=None,
        largest_components=0,
        fill_holes=False,
    ):
        """See `Run.predict`. given: path, or uint8 [rows, columns] or [rows, columns, 3]."""
        options = self.options(mc_dropout, threshold, largest_components)
        data = self.data
        channels = data.source_channels
        read = functools.partial(read_xray, channels=channels)
        image, notes = sources.picture_of(given, read, channels)
        if isinstance(given, np.ndarray):
            check_grey(image, "the array")
        stored = stored_xray(image, data.stored_size, data.source_channels)
        outputs = self.probabilities(options[0])(evaluation_image(stored, data.image_size)[None])
        mean, deviation = (maps[0] for maps in outputs)
        shape = image.shape[:2]
        classes = [bilinear(one, shape) for one in np.moveaxis(mean, -1, 0)]
        labels = self.labels(np.stack(classes, -1), options[1])
        grey = image if image.ndim == 2 else image.mean(-1).astype(np.uint8)
        native_deviation = bilinear(deviation, shape)
        if progress:
            progress(1, 1)
        clean_up = largest_components, fill_holes
        return self.prediction(
            labels, native_deviation, options, clean_up, source=grey, notes=tuple(notes)
        )


class _VolumeMasks(_Masks):
    """Predicts the mask of a CT volume on its voxels; `_labels` does so for one kind of network."""

    def __call__(
        self,
        given,
        affine=None,
        progress=None,
        mc_dropout=None,
        threshold=None,
        largest_components=0,
        fill_holes=False,
        spacing_mm=None,
        axes=None,
        geometry=None,
        series=None,
    ):
        """See `Run.predict`. given: as `sources.volume_of`, in HU; a folder is a DICOM series."""
        user = given_by_user(spacing_mm, axes, geometry, series)
        options = self.options(mc_dropout, threshold, largest_components)
        volume, name = sources.volume_of(given, "ct", affine, user)
        told = sources.told_of(volume)
        labels, deviation = self._labels(volume, name, options, progress)
        return self.prediction(
            labels,
            deviation,
            options,
            (largest_components, fill_holes),
            geometry=volume.geometry,
            source=volume.values,
            notes=told,
            told=told,
        )

    def _labels(self, volume, name, options, progress):
        """-> (uint8 labels on the volume's voxels, the deviation of several passes there)."""
        raise NotImplementedError


class CTMasks(_VolumeMasks):
    """Predicts slice by slice or from runs of slices."""

    def _labels(self, volume, name, options, progress):
        planes, data = volume.values, self.data
        stored = np.stack(
            [
                evaluation_image(stored_image(plane, data.stored_size)[..., None], data.image_size)
                for plane in planes
            ]
        )
        network = self.probabilities(options[0])
        if data.depth:
            mean, deviation = by_runs(stored, data.depth, network, progress)
        else:
            mean, deviation = by_slices(stored, data.context, network, progress)
        labels = np.empty(planes.shape, np.uint8)
        for number, probabilities in zip(range(len(planes)), mean, strict=True):
            classes = np.moveaxis(np.asarray(probabilities), -1, 0)
            resized = np.stack([native(one, planes.shape[1:]) for one in classes], -1)
            labels[number] = self.labels(resized, options[1])
        passes, _ = options
        if passes > 1:
            deviation = np.stack([native(plane, planes.shape[1:]) for plane in deviation])
        return labels, deviation


class ResizedCTMasks(_VolumeMasks):
    """Predicts the mask of a whole CT volume, resized to one size, and interpolates it back.

    Its detail is that of the network's grid: of 16 x 64 x 64 voxels, some 6 mm in a slice of the
    chest and some 20 mm along it.
    """

    def options(self, mc_dropout, threshold, largest_components):
        options = super().options(mc_dropout, threshold, largest_components)
        if crops := self.data.crops:
            raise ConfigError(
                f"config.data.crops={crops}: this run saw crops of volumes and no whole one: "
                "launch.evaluate judges it on its prepared data"
            )
        return options

    def _labels(self, volume, name, options, progress):
        hu, data = volume.values, self.data
        if min(hu.shape) < 2:
            raise DataError(f"{name} has {hu.shape} voxels: a volume has 2 or more along each axis")
        spacing = volume.geometry.spacing_mm
        if data.isotropic_mm:
            spacing = volume.geometry.needed_spacing_mm(name, "resampling to cubic voxels")
        grid, wanted = (spacing or (1.0,) * 3, data.isotropic_mm), (data.depth,)
        wanted += (data.stored_size,) * 2
        volume_resizing.check_whole(name, hu.shape, *grid, wanted)
        # The volume and its labels, each class on its voxels, and one more while that is made.
        check_memory(name, hu.shape, np.int16, np.uint8, *[np.float32] * (self.classes + 1))
        stored = volume_resizing.whole(
            np.clip(hu, *data.clip_hu), volume_resizing.linear, *grid, wanted
        )
        seen = np.stack([evaluation_image(plane[..., None], data.image_size) for plane in stored])
        mean, deviation = (maps[0] for maps in self.probabilities(options[0])(seen[None]))

        def back(maps):
            planes = np.stack([bilinear(plane, stored.shape[1:]) for plane in maps])
            return volume_resizing.whole_back(planes, hu.shape, *grid)

        classes = np.empty((*hu.shape, self.classes), np.float32)
        for number, one in enumerate(np.moveaxis(mean, -1, 0)):
            classes[..., number] = back(one)
        labels = np.stack([self.labels(plane, options[1]) for plane in classes])
        if progress:
            progress(1, 1)
        return labels, back(deviation) if options[0] > 1 else None
