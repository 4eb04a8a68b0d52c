"""Tells whether a run has seen an input in training: whatever scores it then flatters."""

import os

import numpy as np

from jax_pix2pix.imaging.mr_volumes import shows_body
from jax_pix2pix.imaging.planes import stored_image
from jax_pix2pix.inference.sources import PATHS
from jax_pix2pix.inference.synthetic_ct import prepared_planes
from jax_pix2pix.runs.known_patients import sightings
from jax_pix2pix.tasks import kinds


def seen_before(run, source, prediction):
    """A note on where the patient of an input was seen, by name or by pixels; "" if nowhere.

    Args:
        run: Run; nothing is told without its `known`.
        source: as it was given to `Run.predict`; a path tells the name.
        prediction: of it.
    """
    if not run.known:
        return ""
    path = os.fspath(source) if isinstance(source, PATHS) else ""
    found = sightings(run.known, path, _planes(run, prediction))
    if not found:
        return ""
    more = f" and {len(found) - 1} more files" if len(found) > 1 else ""
    return f"the run has seen this in training: {found[0]}{more}; its scores flatter"


def _planes(run, prediction):
    """The source's slices about as preparation stores them, or None if it stores others."""
    data, source = run.config.data, prediction.source
    if run.kind == kinds.XRAY_MASKS or (run.kind == kinds.SYNTHETIC_CT and source.ndim == 2):
        return source[None]
    if run.kind == kinds.CT_MASKS:
        return np.stack([stored_image(plane, data.stored_size) for plane in source])
    if run.kind == kinds.SYNTHETIC_CT:
        return prepared_planes(source, data)[shows_body(prediction.body, data)][..., 0]
    return None  # of masks a CT is stored, of resized volumes another grid
