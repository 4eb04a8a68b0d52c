"""A trained run, opened once, which then predicts, scores and samples many times.

run = jax_pix2pix.load("runs/mri2ct")
sct = run.predict("mr.nii.gz")
sct.save("sct.nii.gz")
"""

import contextlib
import dataclasses
import functools
import inspect

import jax
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.imaging import label_values
from jax_pix2pix.imaging.geometry import OF_A_FILE
from jax_pix2pix.imaging.geometry import given as given_by_user
from jax_pix2pix.inference import sources
from jax_pix2pix.inference.checks import Sampling, check_pictures
from jax_pix2pix.inference.ct_slices import CTSlices
from jax_pix2pix.inference.masks import CTMasks, ResizedCTMasks, XrayMasks
from jax_pix2pix.inference.prediction import LABEL, Prediction
from jax_pix2pix.inference.samples import samples
from jax_pix2pix.inference.seen import seen_before
from jax_pix2pix.inference.synthetic_ct import SyntheticCT
from jax_pix2pix.metrics.mask_scores import score_masks
from jax_pix2pix.metrics.sct_scores import CTScorer
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.known_patients import read_known
from jax_pix2pix.runs.stores import remote_workdir
from jax_pix2pix.runs.workdir import load_state
from jax_pix2pix.runs.workdir_files import MASKS_NOTE, SOURCES_NOTE
from jax_pix2pix.safety.paths import expanded
from jax_pix2pix.tasks import kinds

PREDICTORS = {
    kinds.CT_SLICES: CTSlices,
    kinds.XRAY_MASKS: XrayMasks,
    kinds.CT_MASKS: CTMasks,
    kinds.RESIZED_CT_MASKS: ResizedCTMasks,
    kinds.SYNTHETIC_CT: SyntheticCT,
}


def load(workdir, checkpoint=None):
    """Opens a trained run on this process's first device.

    Args:
        workdir: a folder that training wrote, or its url in a store, s3:// or gs://. A pyramid's
            folder opens its finest scale so far; the folder of a scale opens that scale.
        checkpoint: "best", "last", or a step; by default the best, or the last of a pyramid.

    Returns:
        Run.

    Raises:
        WorkdirError: there is no such run or checkpoint, or it is damaged.
        UnreachableError: the store cannot be reached now.
    """
    workdir = expanded(workdir)
    with remote_workdir.copied(workdir) as folder:
        return open_run(folder, checkpoint, workdir)


def open_run(folder, checkpoint=None, called=None):
    """Opens a local folder as `load` does. called: the user's name for it."""
    called = str(called or folder)
    folder = workdir_files.finest(str(folder))
    which = workdir_files.default_checkpoint(folder) if checkpoint is None else str(checkpoint)
    config, system, state, step = load_state(folder, which)
    notes = workdir_files.notes_of_data(folder, (MASKS_NOTE, SOURCES_NOTE))
    known = []
    with contextlib.suppress(DataError):  # runs of old have no such record
        known = read_known(folder)
    return Run(config, system, state, step, called, which, notes, known)


class Run:
    """See `load`.

    Attributes:
        config: ConfigDict of the run, or of a pyramid's scale.
        kind: config.task, one of tasks.kinds.KINDS.
        system: System.
        generator, discriminator: Network of each, with its weights.
        step: number of the checkpoint's step.
        workdir, checkpoint: what it was opened from.
        mask_notes, source_notes: what the record of the training data says about body masks, and
            about what its sources are.
        known: list of known_patients.Known, whom it was trained on; empty where that is not known.
    """

    def __init__(self, config, system, state, step, workdir, checkpoint, notes=(), known=()):
        self.config, self.system, self.step = config, system, step
        self.generator, self.discriminator = state.generator, state.discriminator
        self.workdir, self.checkpoint, self.known = workdir, checkpoint, known
        self.mask_notes = [note for note in notes if note.startswith(MASKS_NOTE)]
        self.source_notes = [note for note in notes if note.startswith(SOURCES_NOTE)]
        self.kind = kinds.kind_of(config)

    def __repr__(self):
        return (
            f"<Run {self.config.system}, {kinds.KINDS[self.kind]}: {self.workdir}, checkpoint "
            f"{self.checkpoint}, step {self.step}>"
        )

    @functools.cached_property
    def outputs(self):
        """Stored sources [n, *spatial, c] -> `System.output` of the generator, compiled once."""
        system = self.system

        @jax.jit
        def outputs(generator, stored):
            return system.output(generate(system, generator, system.source(stored)))

        return functools.partial(outputs, self.generator)

    @functools.cached_property
    def predictor(self):
        """The predictor for this kind of run, compiled once; its `data` is config.data."""
        if self.kind not in PREDICTORS:
            instead = "sample()" if self.kind == kinds.CT_SAMPLES else "launch.evaluate"
            raise ConfigError(
                f"a run that makes {kinds.KINDS[self.kind]} predicts nothing from an input: use "
                f"{instead}"
            )
        return PREDICTORS[self.kind](self)

    def predict(self, source, **options):
        """Predicts from one input.

        Args:
            source: of a run that makes synthetic CT a volume of MR (or cone beam CT), or the path
                of a picture; of one that makes masks of CT a volume in HU, or the folder of a DICOM
                series; of one that makes masks of X-rays a picture; of one that makes CT slices a
                label mask. A volume is a path, a Volume, a nibabel image, or an array with
                `affine`; a picture a path or an array uint8.
            affine: [4, 4] of an array, from its indices to mm towards right, front and head.
            mask: of synthetic CT: the body, as a path, a Volume, or an array in the axes of the
                source's affine; by default mask.* beside a file called as in SynthRAD, or what is
                found.
            grid: of synthetic CT by a run with config.data.resample: path, Volume or Geometry on
                whose voxels it is made.
            spacing_mm, axes, geometry: of a volume that leaves them open: between slices, rows and
                columns; where its axes run to, such as "LPS"; "sform" or "qform", where a NIfTI's
                two differ. `imaging.geometry` says when. Where the spacing is unknown and no one
                needs it, a warning says so, and the result has none.
            series: of a DICOM folder with several: its SeriesInstanceUID.
            mc_dropout, threshold: for masks: passes with dropout to average, and the probability
                above which a voxel is foreground; by default config.evaluation's.
            largest_components, fill_holes: for masks: how many components to keep, by default all,
                and whether holes are filled; see `metrics.components`.
            progress: (done, total) -> None, called after each call of the network.

        Returns:
            Prediction.

        Raises:
            DataError: the source is not what the run takes, has no affine, or cannot be read.
            ConfigError: an option does not fit the run.
        """
        predictor = self.predictor
        _, *known = inspect.signature(predictor).parameters  # the first is the source
        for name in options:
            if name not in known:
                raise ConfigError(
                    f"{name} is no option of a run that makes {kinds.KINDS[self.kind]}: use "
                    f"{', '.join(known)}"
                )
        check_pictures(self.config, self.kind in (kinds.XRAY_MASKS, kinds.CT_SLICES))
        prediction = predictor(source, **options)
        if seen := seen_before(self, source, prediction):
            prediction = dataclasses.replace(prediction, notes=(*prediction.notes, seen))
        return prediction

    def sample(self, count=16, seed=0, *, from_scale=0, size=None, reconstruct=False, **given):
        """Draws samples of a pyramid.

        Args:
            count: how many samples; each sample is the same for any count.
            seed: of the noise.
            from_scale: the first scale that gets noise; coarser scales come from `source`, or from
                the training volumes of `dataset` in turn.
            size: (slices, rows, columns) of the samples, in 2D (rows, columns); by default that of
                training.
            reconstruct: make the training volumes of `dataset` from their fixed noise instead.
            source, affine, spacing_mm, axes, geometry: a CT in HU, as `predict` takes volumes.
            dataset: input_pipeline.Dataset(run.config.data).
            progress: (done, total) -> None.

        Returns:
            A list of Prediction.

        Raises:
            ConfigError: the run is not of a pyramid, or an option does not fit it.
            DataError: the source cannot be read, or the training data is missing.
        """
        if self.kind != kinds.CT_SAMPLES:
            raise ConfigError(
                f"a run that makes {kinds.KINDS[self.kind]} draws no samples: use predict()"
            )
        sampling = Sampling(count, seed, from_scale, size, reconstruct)
        known = ("source", "affine", "dataset", "progress", *OF_A_FILE)
        for name in given:
            if name not in known:
                raise ConfigError(f"{name} is no option of sample(): use {', '.join(known)}")
        return list(samples(self, sampling, **given))

    def score(self, prediction, reference, affine=None, **options):
        """Scores a prediction against the truth, on the prediction's own voxels.

        Args:
            prediction: Prediction.
            reference: the real CT in HU, or the mask with its labels: a path, a Volume or nibabel
                image, or an array with its affine; for a picture a path or a uint8 array. The axes
                of a volume may have any order and direction.
            options: spacing_mm, axes, geometry and series, as of `predict`, for the reference.

        Returns:
            {name: float}, NaN where undefined: for synthetic CT the CTScores of
            `metrics.sct_scores`, which name the scores that tell nothing; for masks
            "region.metric" of `metrics.mask_scores`.

        Raises:
            DataError: the reference cannot be read or is on other voxels.
            ConfigError: a prediction of this kind is not scored image by image.
        """
        if not isinstance(prediction, Prediction):
            raise DataError(
                f"{type(prediction).__name__} is no Prediction: score what predict() gave; for "
                "arrays there are score_ct and score_masks"
            )
        if (prediction.unit == LABEL) != (self.kind in kinds.MASKS):
            raise DataError(
                f"the prediction is in {prediction.unit}, and this run makes "
                f"{kinds.KINDS[self.kind]}: score it with the run that made it"
            )
        if self.kind == kinds.SYNTHETIC_CT and prediction.body is not None:
            ct = self.reference(prediction, reference, affine, **options)
            return self.score_volume(prediction, ct)
        if self.kind in kinds.MASKS:
            return self._mask_scores(prediction, reference, affine, given_by_user(**options))
        raise ConfigError(
            f"a run that makes {kinds.KINDS[self.kind]} is not scored image by image here: "
            "launch.evaluate judges it on its prepared data"
        )

    def reference(self, prediction, reference, affine=None, **options):
        """Reads a real CT on the voxels of a synthetic one: int16 HU. Raises as `score`."""
        volume, name = sources.volume_of(reference, "ct", affine, given_by_user(**options))
        return prediction.geometry.reordered(
            "the synthetic CT", volume, name, "resample the latter"
        )

    def score_volume(self, prediction, ct):
        """Scores a synthetic CT, as `score` does, against HU on its voxels."""
        body = prediction.body > 0
        return CTScorer(ct, body, prediction.spacing_mm)(prediction.values)

    def _mask_scores(self, prediction, reference, affine, user):
        if prediction.geometry is None:
            from jax_pix2pix.imaging.safe_io import Picture, read_label_picture

            given = sources.picture_of(reference, lambda path: Picture(read_label_picture(path)))
            labels = given.pixels
            name = reference if isinstance(reference, sources.PATHS) else "the reference"
        else:
            volume, name = sources.volume_of(reference, "labels", affine, user)
            labels = prediction.geometry.reordered("the mask", volume, name)
        if labels.shape != prediction.values.shape:
            raise DataError(
                f"{name} has the shape {labels.shape}, and the mask {prediction.values.shape}"
            )
        regions = self.system.task.regions
        picture = prediction.geometry is None
        labels = label_values.numbered(labels, name, regions, soft_edges=picture)
        scores = {}
        for region, members in regions.items():
            predicted = prediction.values > 0
            if self.predictor.classes > 1:
                predicted = np.isin(prediction.values, members)
            found = score_masks(predicted, np.isin(labels, members), prediction.spacing_mm)
            scores |= {f"{region}.{metric}": value for metric, value in found.items()}
        return scores
