"""What `launch.predict` does with X-rays: masks of their own size."""

import numpy as np
import tqdm
from PIL import Image

from jax_pix2pix.imaging.resizing import bilinear, evaluation_image
from jax_pix2pix.imaging.xrays import read_xray, stored_image
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.files import replacing

MOST = 0.5  # standard deviation of values in [0, 1]


def predict(data, model, source, output):
    """Writes a mask of each X-ray, one X-ray after the other: its passes are those it has alone.

    Args:
        data: config.data of the run.
        model: MaskModel.
        source: an X-ray, or a folder of them at any depth.
        output: folder: see `launch.predict` for what is written there.

    Raises:
        DataError: there are no X-rays, or one cannot be read.
    """
    for path, result in tqdm.tqdm(inputs.xrays(source, output), unit="image"):
        image = read_xray(path, data.source_channels)
        stored = stored_image(image, data.stored_size, data.source_channels)
        outputs = model.probabilities(evaluation_image(stored, data.image_size)[None])
        mean, deviation = (maps[0] for maps in outputs)
        shape = image.shape[:2]
        classes = [bilinear(one, shape) for one in np.moveaxis(mean, -1, 0)]
        labels = model.cleaned(model.labels(np.stack(classes, -1)))
        _write(f"{result}.png", labels * np.uint8(255 // model.highest_label))
        if model.has_deviation:
            values = np.rint(bilinear(deviation, shape) * (65535 / MOST))
            _write(f"{result}_uncertainty.png", values.astype(np.uint16))


def _write(path, pixels):
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    tqdm.tqdm.write(path)
