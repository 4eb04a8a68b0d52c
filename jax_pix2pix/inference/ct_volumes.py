"""What `launch.predict` does with CT volumes: masks on the voxels of their files."""

import os

import numpy as np
import tqdm

from jax_pix2pix.imaging.planes import native, stored_image
from jax_pix2pix.imaging import volume_file
from jax_pix2pix.imaging.resizing import evaluation_image
from jax_pix2pix.inference import sliding_window
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.files import replacing

BATCH = 16  # slices


def predict(data, model, source, output):
    """Writes a mask of each volume, one volume after the other.

    Args:
        data: config.data of the run.
        model: MaskModel.
        source: a volume, a folder of them at any depth, or the folder of a DICOM series.
        output: folder: see `launch.predict` for what is written there.

    Raises:
        DataError: there are no volumes, or one cannot be read.
    """
    for path, result in inputs.ct_volumes(source, output):
        volume = _read(path)
        mean, deviation = _probabilities(data, model, volume.values, os.path.basename(result))
        labels = np.empty(volume.values.shape, np.uint8)
        for plane, probabilities in zip(labels, mean, strict=True):
            classes = np.moveaxis(np.asarray(probabilities), -1, 0)
            shape = plane.shape
            plane[...] = model.labels(np.stack([native(one, shape) for one in classes], -1))
        _write(volume_file.write_mask, f"{result}.nii.gz", model.cleaned(labels), volume)
        if model.has_deviation:
            values = np.stack([native(plane, labels.shape[1:]) for plane in deviation])
            _write(volume_file.write_map, f"{result}_uncertainty.nii.gz", values, volume)


def _read(path):
    """The CT in a file, or in the folder of a DICOM series."""
    if not os.path.isdir(path):
        return volume_file.read_ct(path)
    from jax_pix2pix.imaging.formats import dicom  # not above: SimpleITK takes long, and most are files

    return dicom.read_series(path)


def _probabilities(data, model, planes, name):
    """Mean and deviation, as of MaskModel, of each plane as it is stored.

    In 3D the generator sees runs of data.depth slices that overlap by half, and what it says of a
    slice is averaged; a volume of fewer slices repeats the last one.

    Args:
        planes: int16 [slices, h, w].
        name: for the progress bar.

    Returns:
        float32 [slices, S, S, classes] and [slices, S, S], S being data.image_size.
    """
    stored = np.stack(
        [
            evaluation_image(stored_image(plane, data.stored_size)[..., None], data.image_size)
            for plane in planes
        ]
    )
    count, neighbours = len(stored), np.arange(-data.context, data.context + 1)
    if data.depth:
        length, starts = data.depth, sliding_window.starts(count, data.depth)
    else:
        length, starts = BATCH, range(0, count, BATCH)
    mean = np.zeros((*stored.shape[:3], model.classes), np.float32)
    deviation = np.zeros(stored.shape[:3], np.float32)
    times = np.zeros(count, np.float32)
    for start in tqdm.tqdm(starts, desc=name, unit="run"):
        # The last slice is repeated, so that the generator is compiled once.
        slices = np.minimum(np.arange(start, start + length), count - 1)
        if data.depth:
            run = stored[slices][None]
        else:
            around = np.clip(slices[:, None] + neighbours, 0, count - 1)
            run = np.moveaxis(stored[around, ..., 0], 1, -1)
        outputs = model.probabilities(run)
        own = slice(start, min(start + length, count))
        for total, part in zip((mean, deviation), outputs, strict=True):
            part = part[0] if data.depth else part
            total[own] += part[: own.stop - start]
        times[own] += 1
    mean /= times[:, None, None, None]
    deviation /= times[:, None, None]
    return mean, deviation


def _write(write, path, values, volume):
    with replacing(path) as temporary:
        write(temporary, values, volume)
    print(path, flush=True)
