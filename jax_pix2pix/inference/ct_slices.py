"""Makes CT slices from label masks: 8-bit, config.data.image_size a side."""

import itertools

import numpy as np

from jax_pix2pix.errors import DataError
from jax_pix2pix.imaging.safe_io import Picture, read_mask
from jax_pix2pix.imaging.slices import stored_mask
from jax_pix2pix.inference import sources
from jax_pix2pix.inference.prediction import GREY, Prediction
from jax_pix2pix.inference.sliding_window import BATCH


class CTSlices:
    def __init__(self, run):
        self._run, self.data = run, run.config.data

    def __call__(self, given, progress=None):
        """See `Run.predict`. given: path of a mask, .npy or .png, or uint8 [rows, columns]."""
        ((_, prediction),) = self.each([given])
        if progress:
            progress(1, 1)
        return prediction

    def each(self, given, failed=None):
        """Yields (mask, Prediction) of each mask in a list; the network sees them in batches.

        Args:
            failed: (mask, DataError) -> None for one that cannot be used; without it that is
                raised.
        """
        readable = self._readable(given, failed)
        while masks := list(itertools.islice(readable, BATCH)):
            stored = np.stack([image for _, image in masks])
            # A short last batch is padded, so that the generator is compiled once.
            padding = [(0, BATCH - len(stored)), *[(0, 0)] * (stored.ndim - 1)]
            images = np.asarray(self._run.outputs(np.pad(stored, padding)))
            for (one, source), image in zip(masks, images, strict=False):
                values = np.clip(np.round(image[..., 0]), 0, 255).astype(np.uint8)
                yield one, Prediction(values, GREY, source=source[..., 0])

    def _readable(self, given, failed):
        for one in given:
            try:
                stored = self._stored(one)
            except DataError as error:
                if failed is None:
                    raise
                failed(one, error)
            else:
                yield one, stored

    def _stored(self, given):
        """Converts a mask to [size, size, 1], as preparation does."""
        data = self.data
        mask = sources.picture_of(given, lambda path: Picture(read_mask(path))).pixels
        name = given if isinstance(given, sources.PATHS) else "the array"
        return stored_mask(mask, name, data.mask_values, data.image_size, data.mask_resize)
