"""How well the two images of a pair fit: overlap of bodies, mutual information, pixel prints.

Everything is computed from the records of a file, on a few slices and a coarse grid. No TensorFlow.
"""

import collections
from typing import NamedTuple

import numpy as np

from jax_pix2pix.imaging.body_mask import body_mask
from jax_pix2pix.imaging.pixel_prints import pixel_print
from jax_pix2pix.metrics.mutual_information import normalised_mutual_information

SLICES, SIDE = 16, 64  # of what is measured: at most so many, and about so many pixels
SHOWN = 3  # slices of a picture
POOR, NONE = 0.7, 0.1  # overlap: below is warned of; below is refused, where that is sure
BODY_HU = (-1000, 300)  # between which air and body are told apart: bone would be a third class


class Pair(NamedTuple):
    """What the second array of a record is, beside the first, its "image"."""

    array: str
    is_mask: bool
    in_body: bool = True  # whether a mask lies in a body that can be found
    must_overlap: bool = True  # whether a pair without overlap is refused


class Measured(NamedTuple):
    """Of the records of one file, or of several of a patient: sums, so that they add up."""

    inside: int  # pixels in both bodies, twice; or of the mask in the body
    of: int  # pixels of one body and of the other; or of the mask; 0: no overlap is defined
    shared: tuple  # normalised mutual information of each
    pixels: str  # print of the first image
    shown: tuple  # numbers of the records to show

    @property
    def overlap(self):
        return self.inside / self.of if self.of else None

    @property
    def mutual_information(self):
        return float(np.mean(self.shared)) if self.shared else None


def measure(records, pair):
    """Measures the records of one file, dicts of arrays [S, S, channels]; pair: Pair or None."""
    planes = [plane_of(record, "image") for record in records]
    pixels = pixel_print(planes)
    if pair is None:
        return Measured(0, 0, (), pixels, ())
    others = [plane_of(record, pair.array) for record in records]
    present = [k for k, plane in enumerate(others) if not pair.is_mask or plane.any()]
    chosen = evenly(present, SLICES)
    step = max(1, len(planes[0]) // SIDE)
    shape = (0, 1, 1)
    one, other = (
        np.stack([x[k][::step, ::step] for k in chosen]) if chosen else np.zeros(shape)
        for x in (planes, others)
    )
    inside = of = 0
    within = np.ones(one.shape, bool)
    if len(chosen) and pair.is_mask and pair.in_body:
        inside, of = int(((other > 0) & body(one)).sum()), int((other > 0).sum())
    elif len(chosen) and not pair.is_mask:
        bodies = body(one), body(other)
        inside, of = 2 * int((bodies[0] & bodies[1]).sum()), sum(int(x.sum()) for x in bodies)
        within = bodies[0] | bodies[1]
    shared = normalised_mutual_information(one[within], other[within])
    shared = (shared,) if np.isfinite(shared) else ()
    return Measured(inside, of, shared, pixels, tuple(evenly(present, SHOWN)))


def lies_apart(measured, pair):
    """Whether a pair does not overlap, and is refused."""
    overlap = measured.overlap
    return pair is not None and pair.must_overlap and overlap is not None and overlap < NONE


def overlap_name(pair):
    return "share of the mask in the body" if pair.is_mask else "Dice of the bodies"


def together(parts):
    """The Measured of several files of a patient, whose records follow each other."""
    shared = tuple(x for part in parts for x in part.shared)
    return Measured(sum(x.inside for x in parts), sum(x.of for x in parts), shared, "", ())


def same_pictures(prints):
    """Patients whose images are the same. prints: {(patient, file): print}.

    Returns:
        [((patient, file), (patient, file))]: for each print that several have, two of them.
    """
    of_print = collections.defaultdict(dict)
    for (patient, file), pixels in prints.items():
        if pixels:
            of_print[pixels].setdefault(patient, (patient, file))
    return [tuple(found.values())[:2] for found in of_print.values() if len(found) > 1]


def plane_of(record, name):
    """[S, S]: a stored array of one channel, or the mean of several."""
    return record[name][..., 0] if record[name].shape[-1] == 1 else record[name].mean(-1)


def evenly(numbers, most):
    """At most so many of the numbers, evenly spaced, without the ends where there are more."""
    if len(numbers) <= most:
        return numbers
    return [numbers[int((k + 0.5) * len(numbers) / most)] for k in range(most)]


def body(values):
    """bool, as `values`: HU between air and bone, or any other values, above Otsu's threshold."""
    if values.min() < 0:
        values = np.clip(values, *BODY_HU)
    return body_mask(values) > 0
