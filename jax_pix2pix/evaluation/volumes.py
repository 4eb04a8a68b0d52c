"""A synthetic CT and its real one, assembled patient by patient from evaluation batches."""

from typing import NamedTuple

import jax
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.evaluation.slices import check_any_counted
from jax_pix2pix.intensity import to_stored


class Patient(NamedTuple):
    """Volumes [slices, h, w] of one patient, and the indices of their slices."""

    indices: list[int]
    source: np.ndarray  # as stored, without neighbouring slices
    ct: np.ndarray  # HU
    sct: np.ndarray  # HU, rounded to whole ones
    mask: np.ndarray  # bool, the body


def patient_volumes(system, generator, window_hu, batches, patients):
    """Volumes patient by patient, so that memory does not grow with their number.

    Args:
        system, generator: whose output in [-1, 1] spans window_hu.
        batches: stored batches with "source", "target" in HU, "mask" and "index", in the order of
            the slices; 2D, with neighbouring slices as channels, or 3D.
        patients: of each slice; a patient's slices are neighbours.

    Yields:
        Patient, without slices that could not be read.

    Raises:
        ConfigError: there is none that could.
    """

    @jax.jit
    def synthesise(batch):
        source, _ = system.normalise(batch)
        return to_stored(generate(system, generator, source), window_hu)

    waiting = {}  # slice index -> its planes

    def flush():
        order = sorted(waiting)
        planes = zip(*(waiting[index] for index in order), strict=True)
        volumes = [np.stack(volume) for volume in planes]
        waiting.clear()
        return Patient(order, *volumes)

    for batch in batches:
        hu = np.rint(jax.device_get(synthesise({k: batch[k] for k in ("source", "target")})))
        index, *planes = of_slices(batch | {"sct": hu}, ("source", "target", "sct", "mask"))
        for number, *of_slice in zip(index.tolist(), *planes, strict=True):
            if waiting and patients[number] != patients[min(waiting)]:
                yield flush()
            source, ct, sct, mask = of_slice
            waiting[number] = source, ct, sct, mask > 0
    check_any_counted(len(waiting))
    yield flush()


def of_slices(batch, names):
    """Planes of the slices of a batch that are no padding: [index [n], each name's [n, h, w]].

    Of an image with neighbouring slices as channels, the slice's own.
    """
    counted = batch["index"] >= 0
    arrays = [batch[name][counted] for name in names]
    return [batch["index"][counted], *(array[..., array.shape[-1] // 2] for array in arrays)]
