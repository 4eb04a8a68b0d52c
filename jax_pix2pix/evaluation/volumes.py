"""Assembles synthetic and real CT patient by patient from evaluation batches."""

from typing import NamedTuple

import jax
import numpy as np

from jax_pix2pix.adversarial import generate
from jax_pix2pix.evaluation.slices import check_any_counted


class Patient(NamedTuple):
    """Volumes [slices, h, w] of one patient, and the indices of their slices."""

    indices: list[int]
    source: np.ndarray  # as stored, without neighbouring slices
    ct: np.ndarray  # HU
    sct: np.ndarray  # HU, rounded to whole ones
    mask: np.ndarray  # bool, the body
    seen: np.ndarray | None = None  # the source in [-1, 1] as the network saw it, also if degraded


def patient_volumes(system, generator, batches, patients, seen=False):
    """Yields volumes patient by patient, so that memory does not grow with their number.

    Args:
        system, generator: of a run; `system.output` is in HU.
        batches: stored batches with "source", "target" in HU, "mask" and "index", in the order of
            the slices; 2D, with neighbouring slices as channels, or 3D.
        patients: the patient of each slice; a patient's slices are neighbours.
        seen: whether Patient.seen is wanted.

    Yields:
        Patient, without slices that could not be read.

    Raises:
        ConfigError: no slice could be read.
    """

    @jax.jit
    def synthesise(batch):
        source, _ = system.normalise(batch)
        output = system.output(generate(system, generator, source))
        return output, source if seen else output

    waiting = {}  # slice index -> its planes

    def flush():
        order = sorted(waiting)
        planes = zip(*(waiting[index] for index in order), strict=True)
        volumes = [np.stack(volume) for volume in planes]
        waiting.clear()
        return Patient(order, *volumes)

    for batch in batches:
        shown = {name: batch[name] for name in ("source", "target", "index")}
        hu, source = jax.device_get(synthesise(shown))
        made = {"sct": np.rint(hu), "seen": source}
        names = ("source", "target", "sct", "mask", *(("seen",) if seen else ()))
        index, *planes = of_slices(batch | made, names)
        for number, source, ct, sct, mask, *others in zip(index.tolist(), *planes, strict=True):
            if waiting and patients[number] != patients[min(waiting)]:
                yield flush()
            waiting[number] = source, ct, sct, mask > 0, *others
    check_any_counted(len(waiting))
    yield flush()


def of_slices(batch, names):
    """Extracts a batch's slices that are not padding: [index [n], each name's [n, h, w]].

    An image with neighbouring slices as channels gives the slice's own.
    """
    counted = batch["index"] >= 0
    arrays = [batch[name][counted] for name in names]
    return [batch["index"][counted], *(array[..., array.shape[-1] // 2] for array in arrays)]
