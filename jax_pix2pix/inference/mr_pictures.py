"""What `launch.predict` does with pictures of MR: pictures of synthetic CT, of their own size."""

import numpy as np
import tqdm
from PIL import Image

from jax_pix2pix.imaging.mr_intensity import hu_to_grey
from jax_pix2pix.imaging.mr_pictures import stored_source
from jax_pix2pix.imaging.planes import native
from jax_pix2pix.imaging.resizing import evaluation_image
from jax_pix2pix.imaging.safe_io import read_picture
from jax_pix2pix.inference import inputs
from jax_pix2pix.inference.files import replacing
from jax_pix2pix.inference.synthetic_ct import compiled


def predict(config, system, generator, source, output):
    """Writes a synthetic CT of each picture, one picture after the other.

    Args:
        config, system, generator: of the run, which is 2D without neighbouring slices.
        source: a picture, or a folder of them at any depth.
        output: see `launch.predict` for what is written there.

    Raises:
        DataError: there are no pictures but of CTs, or one cannot be read.
    """
    paths = inputs.mr_pictures(source, output)
    outputs = compiled(system, config.data)
    for path, result in tqdm.tqdm(paths, unit="picture"):
        grey = read_picture(path)
        (hu,) = np.asarray(outputs(generator, prepared(grey, config.data)[None]))
        hu = native(hu[..., 0], grey.shape)
        with replacing(result) as temporary:
            Image.fromarray(hu_to_grey(hu, config.data.image_window_hu)).save(temporary)
        tqdm.tqdm.write(result)


def prepared(grey, data):
    """A picture as preparation and evaluation make it. uint8 [h, w] -> uint16 [S, S, 1]."""
    return evaluation_image(stored_source(grey, data.stored_size), data.image_size)
